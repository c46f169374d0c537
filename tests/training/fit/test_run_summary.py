"""The last line of a fit, and the metrics of short runs."""

from __future__ import annotations

import csv
import re
import shlex
import sys
from pathlib import Path

import pytest

from framefold.__main__ import main
from framefold.training.fit.curves import find_metrics

WORDS = ["fit", "--config", "compressor/fila", "--config", "trainer/cpu", "--data.batch_size", "1"]
WORDS += ["--data.frames", "16", "16", "--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]


@pytest.fixture
def fit(random_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run framefold fit and return its output."""

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["framefold"])
        assert (
            main([*WORDS, "--model.host", str(random_host), "--trainer.default_root_dir", str(tmp_path), *words]) == 0
        )
        return capsys.readouterr().out

    return run


def test_a_run_of_fewer_steps_than_the_logging_interval_writes_metrics(fit, tmp_path: Path) -> None:
    assert "fit: 6 steps done: " in fit("--trainer.max_steps", "6")
    with (tmp_path / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row.get("train/loss")] == list("012345")
    assert any(row.get("train/step_seconds") for row in rows)


def test_the_last_line_names_the_metrics_and_the_command_that_draws_them(fit, tmp_path: Path) -> None:
    for words in (["--config", "logger/csv"], [], ["--trainer.enable_checkpointing=false"]):
        last = fit("--trainer.max_steps", "1", *words).strip().splitlines()[-1]
        found = re.search(r"; metrics in (\S+/metrics\.csv): draw them with (framefold curves .+?)(?:;|$)", last)
        assert found, f"{words}: {last}"
        command = shlex.split(found[2])[1:]
        assert Path(found[1]).is_file() and find_metrics(Path(command[1])) == Path(found[1]), words
        assert main([*command, "--out", str(tmp_path / "curves.svg")]) == 0, words
    for words in (["--trainer.logger", "false"], ["--config", "logger/tensorboard"], ["--trainer.fast_dev_run=true"]):
        assert "metrics in" not in fit("--trainer.max_steps", "1", *words), words


def test_a_trial_run_ends_with_a_complete_sentence(fit) -> None:
    for words in (
        ["--trainer.fast_dev_run", "true"],
        ["--trainer.max_steps=1", "--trainer.enable_checkpointing=false"],
    ):
        last = fit(*words).strip().splitlines()[-1]
        assert last.startswith("fit: 1 steps done") and last.endswith("; no checkpoint was saved"), last


def test_a_run_whose_time_is_up_says_how_to_continue(fit) -> None:
    out = fit("--trainer.max_steps", "100000", "--trainer.max_time", "00:00:00:01")
    assert out.strip().endswith("its time was up: --resume auto with a longer --trainer.max_time continues it")
    assert "time was up" not in fit("--trainer.max_steps", "1", "--trainer.max_time", "00:00:10:00")


def test_validate_warns_about_weights_that_were_not_trained(
    fit, random_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def validate(*words: str) -> list[str]:
        small = ["--data.val_videos", "1", "--data.val_frames", "16", "--trainer.enable_progress_bar", "false"]
        where = ["--model.host", str(random_host), "--trainer.default_root_dir", str(tmp_path / "validate")]
        assert main(["validate", "--config", "trainer/cpu", *small, *where, *words]) == 0
        err = capsys.readouterr().err
        return [line for line in err.splitlines() if line.startswith("framefold: warning: ")]

    assert "UNTRAINED" not in fit("--trainer.max_steps", "1")  # it is being trained
    capsys.readouterr()
    (line,) = validate("--config", "compressor/fila")
    assert "fila is UNTRAINED: with its initial weights it computes what scene_mean computes" in line
    assert validate("--ckpt_path", str(next(tmp_path.rglob("last.ckpt")))) == []
    assert validate("--config", "compressor/scene_mean") == []
