"""Result files: what is written is read again, and damaged, foreign or different results are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from framefold.errors import ResultsError
from framefold.evaluation.report.report import report
from framefold.evaluation.results.result_files import FOLDER, count_answers, read_result, read_results
from framefold.evaluation.results.settings import Settings
from tests.support.pages.page_reader import read_page
from tests.support.pages.simple_results import SETTINGS, simple_answers, write_simple_result
from tests.support.paths import ASSETS


def test_result_is_reused_only_for_the_same_settings(tmp_path: Path) -> None:
    write_simple_result(tmp_path, SETTINGS, simple_answers(0.5, 10))
    assert read_result(tmp_path, SETTINGS) is not None
    assert read_result(tmp_path, replace(SETTINGS, host_weights="other")) is None
    (tmp_path / FOLDER / SETTINGS.file).write_text("{")
    assert read_result(tmp_path, SETTINGS) is None


def test_result_is_found_again_after_host_and_shards_have_moved(tmp_path: Path) -> None:
    shards = {"kind": "shards", "shards": "here", "digest": "abc", "videos": 3, "frames": 8}
    write_simple_result(tmp_path, replace(SETTINGS, data=shards), simple_answers(0.5, 10))
    moved = replace(SETTINGS, host="/elsewhere/host", data={**shards, "shards": "there"})
    assert read_result(tmp_path, moved) is not None
    assert read_result(tmp_path, replace(moved, data={**shards, "digest": "abd"})) is None
    assert read_result(tmp_path, moved, kept_videos=1) is None, "it contains no kept tokens"


def test_answers_of_several_seeds_are_added_up(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_simple_result(tmp_path, replace(SETTINGS, seed=seed), simple_answers(0.5, 10, seed))
    assert count_answers(read_results(tmp_path)).asked.sum() == 160


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="framefold ablate"):
        read_results(tmp_path)
    write_simple_result(tmp_path, SETTINGS, simple_answers(0.5, 10))
    (tmp_path / FOLDER / "zz.json").write_text("{")
    with pytest.raises(ResultsError, match="zz.json"):
        read_results(tmp_path)


def test_files_of_another_format_are_named_and_not_reused(tmp_path: Path) -> None:
    file = tmp_path / FOLDER / SETTINGS.file
    complete = write_simple_result(tmp_path, SETTINGS, simple_answers(0.5, 10))
    assert read_results(tmp_path) == [json.loads(file.read_text())]
    without_cost = {**complete, "cost": {key: value for key, value in complete["cost"].items() if key != "speedup"}}
    file.write_text(json.dumps(without_cost))
    with pytest.raises(ResultsError, match="no speedup"):
        read_results(tmp_path)
    without_kept = {key: value for key, value in complete.items() if key != "kept"}
    incomplete = [json.dumps({**complete, "schema": 2}), json.dumps(without_kept)]
    for text in ("[]", "3", '{"schema": 2}', '{"schema": 3, "settings": {}}', '{"schema": 3}', *incomplete):
        file.write_text(text)
        with pytest.raises(ResultsError, match=SETTINGS.file):
            read_results(tmp_path)
        assert read_result(tmp_path, SETTINGS) is None, text


def test_results_of_different_settings_are_not_compared(tmp_path: Path) -> None:
    write_simple_result(tmp_path, SETTINGS, simple_answers(0.5, 10))
    other = replace(SETTINGS, budget=0.2)
    cases = [
        ({"data": {**SETTINGS.data, "videos": 41}}, "videos"),
        ({"data": {**SETTINGS.data, "seed": 1}}, "seed"),
        ({"data": {"kind": "shards", "videos": 40, "frames": 64, "digest": "x"}}, "kind"),
        ({"host_weights": "x"}, "host_weights"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"exclude": ["count"]}, "exclude"),
        ({"adapter": "other"}, "adapter"),
        ({"params": {"r": 2}}, "params"),
    ]
    for changes, name in cases:
        write_simple_result(tmp_path, replace(other, **changes), simple_answers(0.5, 20))
        with pytest.raises(ResultsError, match=f"uniform-b0.1-s0.json and uniform-b0.2-s0.json differ in {name}"):
            report(str(tmp_path))
        assert not (tmp_path / "report.md").exists(), name


def test_results_about_different_questions_are_not_compared(tmp_path: Path) -> None:
    write_simple_result(tmp_path, SETTINGS, simple_answers(0.5, 10))
    other = [{**answer, "question": "why ?"} for answer in simple_answers(0.5, 10)]
    write_simple_result(tmp_path, replace(SETTINGS, budget=0.2), other)
    with pytest.raises(ResultsError, match="different questions"):
        read_results(tmp_path)


def test_result_contains_its_provenance(tmp_path: Path) -> None:
    result = write_simple_result(tmp_path, SETTINGS, simple_answers(0.5, 10))
    assert result["machine"]["processor"] and result["machine"]["memory_gib"] > 0 and result["machine"]["gpu"] is None
    assert {"framefold", "torch", "transformers", "numpy", "python"} <= set(result["versions"])
    stored = json.loads((tmp_path / FOLDER / SETTINGS.file).read_text())
    assert stored == json.loads(json.dumps(result)) and stored["evidence_recall"] == 0.5


def table_values(text: str) -> list[list[str]]:
    """Return the values of all Markdown tables, row by row, without heads, first columns and empty cells."""
    lines = text.splitlines()
    rows = [line for line, below in zip(lines, [*lines[1:], ""], strict=True) if "---" not in line + below]
    rows = [row for row in rows if row.startswith("|") and not row.startswith("| text only |")]  # which is new
    return [[value for value in row.strip("|").split("|")[1:] if value.strip()] for row in rows]


def test_results_of_an_earlier_version_give_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``tests/assets/results_v3`` and its report were written before the source was arranged in folders."""
    monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
    shutil.copytree(ASSETS / "results_v3" / FOLDER, tmp_path / FOLDER)
    before = (ASSETS / "results_v3" / "report.md").read_text()
    assert table_values(report(str(tmp_path)).read_text()) == table_values(before)
    result = json.loads((tmp_path / FOLDER / "uniform-b0.25-s0.json").read_text())
    assert read_result(tmp_path, Settings(**result["settings"]), kept_videos=1) == result
    _, data = read_page(tmp_path)
    assert all(video["mosaic"] and not video["note"] for video in data["detail"]["videos"]), "videos are the same"
