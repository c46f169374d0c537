"""An ablation with long answers: the losses of their tokens are stored, and the report shows them by position."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from framefold.data.synthetic.difficulty import Difficulty
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.results.result_files import read_results
from tests.support.paths import TINYHOST


def test_lists_of_synthetic_videos_have_losses_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefold.evaluation.ablation.runner.VIDEOS", 2)
    monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
    settings = {"host": str(TINYHOST), "compressors": ["uniform"], "budgets": [0.1], "videos": 2, "frames": 16}
    ablate(str(tmp_path), difficulty=Difficulty(lists=True), exclude=["list"], oracle=False, adapters=[], **settings)
    for one in read_results(tmp_path):
        columns = one["answers"]
        for kind, answer, losses in zip(columns["type"], columns["answer"], columns["losses"], strict=True):
            assert (losses is None) == (kind != "list") == (len(answer.split()) == 1)
            assert losses is None or (len(losses) == len(answer.split()) >= 8 and min(losses) >= 0)
        assert "list" not in one["settings"]["exclude"] or math.isfinite(one["accuracy"])
    text = (tmp_path / "report.md").read_text()
    assert "## By position in long answers" in text and "| added loss at 10 % | all tokens | token 1 |" in text
