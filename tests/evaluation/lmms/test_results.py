"""Results of tasks on disk: written, joined, read into tables, and checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framefold.errors import EvalError
from framefold.evaluation.lmms.results import file_of, finished, read_eval, write_task
from framefold.evaluation.lmms.settings import EvalSettings, claim, settings_of
from framefold.evaluation.lmms.table import markdown_table, text_table
from tests.support.lmms.lmms_fixtures import ANSWER, SETTINGS, samples_of


def write(out: Path, task: str = "toy", settings: EvalSettings = SETTINGS, both: float = 0.75, **values: Any) -> None:
    """Results as lmms-eval returns them: a group of two tasks, one of which has values of its own."""
    claim(out, settings)
    toy = {"alias": "toy", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_stderr_clustered,none": "N/A", **values}
    reported = {
        "results": {"toy": toy, "both": {"acc,none": both, "acc_stderr,none": "N/A", " ": " "}},
        "higher_is_better": {"toy": {"acc": True}, "both": {"acc": False}},
        "date": object(),
    }
    logged = {"doc_id": 0, "target": "red", "filtered_resps": ["red"], "doc_hash": "x", "acc": np.float64(1)}
    samples = {"toy": [logged], "other": [logged | {"doc_id": 7}]}
    answers = [ANSWER, ANSWER | {"task": "other", "doc_id": 7, "visual_after": 20}]
    write_task(out, task, settings, reported, samples, answers, 12.5)


def test_metrics_have_their_errors_and_the_costs_of_the_answers(tmp_path: Path) -> None:
    write(tmp_path, **{"f1,strict": 0.25, "f1_stderr,strict": 0.2, "f1_stderr_clustered,strict": np.float64(0.3)})
    toy, f1, both = read_eval(tmp_path)
    assert (toy.compressor, toy.budget, toy.host, toy.task, toy.metric) == ("uniform", 0.25, "host", "toy", "acc")
    assert (toy.value, toy.stderr, toy.better, toy.n) == (0.5, 0.1, "higher", 1)
    assert (f1.metric, f1.value, f1.stderr, f1.better) == ("f1", 0.25, 0.3, "")  # the clustered error is the wider one
    assert (both.task, both.value, both.stderr, both.better, both.n) == ("both", 0.75, None, "lower", 2)
    assert toy.efficiency["visual_after"] == 10 and both.efficiency["visual_after"] == 15
    sample = samples_of(tmp_path, "toy")[0]
    assert sample["answer"] == sample["target"] == "red" and sample["metrics"] == {"acc": 1}
    assert sample["visual_before"] == 100 and sample["prefill"] == 0.1


def test_evaluations_are_compared_with_the_best_first(tmp_path: Path) -> None:
    few = settings_of(json.loads(SETTINGS.text) | {"budget": 20})
    full = settings_of(json.loads(SETTINGS.text) | {"row": "identity"})
    write(tmp_path / "few", settings=few, both=0.9, **{"acc,none": 0.25})
    write(tmp_path / "many", **{"acc,none": 0.75})
    write(tmp_path / "full", settings=full, both=0.1, **{"acc,none": 0.5})
    lines = markdown_table([tmp_path / name for name in ("few", "many", "full")]).splitlines()
    assert (
        lines[2]
        == "| toy | acc | uniform, budget 0.25 | 0.7500 | 0.1000 | 1 | 100 -> 10 | 100.0 ms | 2.0 ms | 1.0 MiB |"
    )
    inside = replace(
        read_eval(tmp_path / "many")[0], efficiency=read_eval(tmp_path / "many")[0].efficiency | {"visual_mean": 4.6}
    )
    assert "100 -> 10, mean over layers 5  " in text_table([inside])
    assert [line.split(" | ")[2] for line in lines[2:5]] == ["uniform, budget 0.25", "all tokens", "uniform, budget 20"]
    assert [line.split(" | ")[3] for line in lines[5:]] == ["0.1000", "0.7500", "0.9000"]  # lower is better
    assert markdown_table([]) == ""
    with pytest.raises(EvalError, match="no results in"):
        markdown_table([tmp_path])


def test_finished_tasks_are_joined(tmp_path: Path) -> None:
    write(tmp_path, "one")
    write(tmp_path, "a/b")
    joined = json.loads((tmp_path / "eval.json").read_text())
    assert set(joined["tasks"]) == {"one", "a/b"} and joined["settings"]["host_revision"] == "abc"
    assert joined["tasks"]["one"]["seconds"] == 12.5 and joined["tasks"]["one"]["manifest"]["versions"]["torch"]
    assert finished(tmp_path, "a/b") and not finished(tmp_path, "b") and len(read_eval(tmp_path)) == 4


def test_answer_that_is_not_in_the_log_is_an_error(tmp_path: Path) -> None:
    claim(tmp_path, SETTINGS)
    sample = {"doc_id": 3, "target": "red", "filtered_resps": ["red"]}
    with pytest.raises(EvalError, match="document 3 of toy"):
        write_task(tmp_path, "toy", SETTINGS, {"results": {"toy": {}}}, {"toy": [sample]}, [ANSWER], 1.0)
    assert not finished(tmp_path, "toy") and not (tmp_path / "eval.json").exists()


def change_settings(out: Path, **changed: Any) -> None:
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps(settings | changed))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda out: file_of(out, "toy").write_text("{"), "toy.json is damaged"),
        (lambda out: file_of(out, "toy").write_text('{"schema": 99}'), "schema 99"),
        (lambda out: file_of(out, "toy").unlink(), "no finished task"),
        (lambda out: (out / "settings.json").write_text("[]"), "settings.json is damaged"),
        (lambda out: (out / "settings.json").unlink(), "no results in"),
        (lambda out: change_settings(out, frames=3), "another value of frames than"),
    ],
)
def test_damaged_results_are_named(tmp_path: Path, damage: Callable[[Path], object], text: str) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(EvalError, match=text):
        read_eval(tmp_path)
