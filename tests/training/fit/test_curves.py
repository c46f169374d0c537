"""``framefold curves``: the metrics of a run, found and drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from framefold.__main__ import main
from framefold.errors import ConfigError
from framefold.training.fit.curves import draw_curves, find_metrics, read_metrics

HEADER = "epoch,step,train/loss,val/accuracy,val/accuracy@0.1,val/loss@0.1\n"


def write_run(folder: Path, rows: str = "0,9,0.5,,,\n0,9,,0.25,0.25,0.75\n0,19,0.25,,,\n0,9,0.375,,,\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(HEADER + rows)
    return folder


def test_metrics_are_read_by_step_and_the_last_value_of_a_step_counts(tmp_path: Path) -> None:
    curves = read_metrics(write_run(tmp_path) / "metrics.csv")
    assert curves["train/loss"] == [(9, 0.375), (19, 0.25)]
    assert curves["val/accuracy@0.1"] == [(9, 0.25)] and curves["val/loss@0.1"] == [(9, 0.75)]
    write_run(tmp_path, "0,1,nan,,,\n0,2,0.5,,,\n")
    assert read_metrics(tmp_path / "metrics.csv")["train/loss"] == [(2, 0.5)]


def test_newest_version_of_a_run_is_found(tmp_path: Path) -> None:
    for version in ("version_2", "version_10", "version_x"):
        write_run(tmp_path / version)
    assert find_metrics(tmp_path) == tmp_path / "version_10" / "metrics.csv"
    assert find_metrics(tmp_path / "version_2") == tmp_path / "version_2" / "metrics.csv"


def test_several_runs_are_drawn_into_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = write_run(tmp_path / "one" / "version_0").parent, write_run(tmp_path / "two" / "version_0").parent
    assert main(["curves", str(one), str(two), "--out", str(tmp_path / "both.svg")]) == 0
    drawing = (tmp_path / "both.svg").read_text()
    for label in ("one/version_0 train/loss", "two/version_0 val/accuracy at 0.1", "validation accuracy", "step"):
        assert label in drawing, label
    assert main(["curves", str(one)]) == 0
    picture = one / "version_0" / "curves.png"
    assert picture.read_bytes().startswith(b"\x89PNG") and str(picture) in capsys.readouterr().out


def test_missing_and_damaged_metrics_are_errors_that_name_them(tmp_path: Path) -> None:
    for rows, text in (("0,x,0.5,,,\n", "not a table"), ("", "contains no loss yet"), ("0,1,a,,,\n", "not a table")):
        run = write_run(tmp_path / "damaged", rows)
        with pytest.raises(ConfigError, match=f"metrics.csv .*{text}|{text}"):
            draw_curves([str(run)])
        assert not (run / "curves.png").exists()
    with pytest.raises(ConfigError, match="nowhere has no metrics.csv"):
        draw_curves([str(tmp_path / "nowhere")])
    with pytest.raises(ConfigError, match="must end in .png"):
        draw_curves([str(write_run(tmp_path / "run"))], out=str(tmp_path / "x.txt"))
