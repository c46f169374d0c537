"""The public benchmarks in one line each, on the embedded host: tasks of the same names stand in for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.evaluation.lmms.published_scores import BENCHMARKS
from framefold.evaluation.lmms.results import read_eval
from tests.support.lmms.lmms_fixtures import STUB, environment, write_stand_ins, write_task_files
from tests.support.processes import needs_torchvision

pytestmark = needs_torchvision
QUESTIONS = 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_task_files(tmp_path / "files", videos=1)
    questions = folder / "toy/questions.jsonl"
    questions.write_text("\n".join(questions.read_text().splitlines()[:QUESTIONS]))
    write_stand_ins(folder / "tasks")
    for name, value in environment(folder, stub=True).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(STUB)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return folder


def published(folder: Path, scores: dict[str, float]) -> str:
    entry = {"host": "checkpoints/tinyhost", "frames": 64, "settings": "made up", "source": "this test"}
    file = folder / "scores.json"
    file.write_text(json.dumps({"scores": [{**entry, "task": task, "score": score} for task, score in scores.items()]}))
    return str(file)


def test_benchmarks_run_in_one_line_with_the_unpruned_and_the_published_score(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--host", "checkpoints/tinyhost", "--include_path", "tasks", "--tasks", ",".join(BENCHMARKS)]
    words += ["--compressor", "uniform", "--budget", "0.1", "--out", "uniform", "--unpruned", "full"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "No published score with all tokens is known for checkpoints/tinyhost on videomme" in out
    values = {one.task: one.value * BENCHMARKS[one.task].points for one in read_eval("full")}
    assert set(values) == set(BENCHMARKS) and len({round(value, 6) for value in values.values()}) == 1
    score = values["lvbench"]
    assert score >= 50

    given = published(folder, {task: score - 0.5 for task in BENCHMARKS} | {"lvbench": score - 3})
    assert main([*words, "--published", given]) == 0  # nothing is asked again
    _, last = capsys.readouterr().out.split(f"results: {Path('full/eval.json')}\n")
    warning, table, *_ = last.split("\n\n")
    assert warning.startswith("WARNING: with all tokens") and "on lvbench here" in warning and "3.0 points" in warning
    assert "videomme" not in warning and table.startswith("uniform, budget 0.1, host checkpoints/tinyhost")

    assert main(["eval", "table", "--results", "uniform", "full", "--published", given]) == 0
    table = capsys.readouterr().out
    assert table.startswith("**WARNING: with all tokens") and table.count("WARNING") == 1
    assert table.count("| all tokens |") == table.count("| uniform, budget 0.1 |") == len(BENCHMARKS)
    check_manifest(json.loads(Path("uniform/eval.json").read_text())["tasks"]["lvbench"])


def check_manifest(task: dict[str, Any]) -> None:
    """Frames, pixels, prompt, versions and harness are in the manifest of a task."""
    manifest = task["manifest"]
    assert manifest["frames"] == {"asked": 64, "sampled": [32, 32]}
    assert manifest["pixels"] == [64 * 64] * 3
    first = task["samples"][0]
    assert manifest["prompt"]["first"].startswith("<user>") and manifest["prompt"]["digest"]
    assert "prompt_text" not in first and first["pixels"] == 64 * 64
    assert manifest["tasks"]["lvbench"]["generation_kwargs"]["max_new_tokens"] == 4
    assert manifest["harness"]["name"] == "lmms_eval" and "commit" in manifest["harness"]
    assert manifest["versions"]["torch"] == torch.__version__ and manifest["host"]["revision"]


def test_unpruned_results_need_a_folder_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", "--host", "checkpoints/tinyhost", "--tasks", "videomme", "--compressor", "uniform"]
    assert main([*words, "--out", "one", "--unpruned", "./one"]) == 2
    assert "--unpruned and --out are the same folder" in capsys.readouterr().err
    assert not Path("one").exists()
