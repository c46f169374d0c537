"""``framefold bench teacher``: what the attention of each layer is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.adapters.base.build import build
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import BudgetError, ConfigError
from framefold.evaluation.bench.teacher import bench_teacher, summarize_teachers
from framefold.evaluation.bench.teacher_layers import KeepRanked, Taught, answer_from_layers
from framefold.training.frozen_host.batch import answer_questions, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import predict
from framefold.training.score_losses import evidence_masks
from tests.support.contract import features, wrap
from tests.support.paths import TINYHOST


@pytest.fixture(scope="module")
def host() -> Any:
    return load_host(TINYHOST)


def test_a_ranking_of_each_question_is_kept_in_order() -> None:
    video = wrap(features((6, 3, 4)))
    rankings = [torch.arange(72.0), -torch.arange(72.0)]
    keep = KeepRanked(rankings, 0.05)
    assert keep(video).tokens.index.tolist() == [68, 69, 70, 71]
    assert keep(video).tokens.index.tolist() == [0, 1, 2, 3]


def test_with_all_tokens_every_teacher_gives_the_answers_of_the_host(host: Any) -> None:
    sample = Recipe((20, 20), difficulty="hard").sample(3)
    batch = encode_batch(host, [sample])
    logits, _, asked = answer_questions(host, build("identity"), batch)
    right = (predict(logits, asked.rows) == asked.rows.answers()).tolist()
    taught = list(answer_from_layers(host, sample, 0, [1.0]))
    teachers = {(one.layers, one.heads) for one in taught}
    assert len(teachers) == 2 * 5 + 1 and ((0, 1, 2, 3), "max") in teachers and ((), "") in teachers
    for teacher in teachers:
        assert [one.correct for one in taught if (one.layers, one.heads) == teacher] == right


def test_a_layer_is_measured_by_its_own_attention(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher whose attention is the annotated evidence ranks it perfectly; its reverse does not."""
    sample = Recipe((20, 20), difficulty="hard").sample(3)
    masks = [mask.float() for mask in evidence_masks(encode_batch(host, [sample]).one_video_per_question())]

    def attention(host: Any, batch: Any, settings: Any) -> Any:
        return None, [masks if one.layers == [2] else [-mask for mask in masks] for one in settings]

    monkeypatch.setattr("framefold.evaluation.bench.teacher_layers.compare_attention", attention)
    rows = summarize_teachers(list(answer_from_layers(host, sample, 0, [0.1])))
    by_layer = {(tuple(row["layers"]), row["heads"]): row for row in rows}
    assert by_layer[(2,), "max"]["auc"] == 1.0 and by_layer[(1,), "max"]["auc"] == 0.0
    assert by_layer[(2,), "mean"]["accuracy"]["0.1"][0] > by_layer[(1,), "mean"]["accuracy"]["0.1"][0] + 0.2


def test_accuracy_is_the_mean_over_types() -> None:
    taught = [Taught((1,), "max", 0.1, kind, n, right, 0.5) for n, (kind, right) in enumerate(
        [("needle", True), ("needle", True), ("needle", True), ("exists", False)])]  # fmt: skip
    (row,) = summarize_teachers(taught)
    assert row["accuracy"]["0.1"][0] == pytest.approx(0.5) and row["layers"] == [1] and row["heads"] == "max"


def test_the_command_writes_its_table(tmp_path: Path) -> None:
    main(["bench", "teacher", "--host", str(TINYHOST), "--videos", "1", "--frames", "16", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "teacher.json").read_text())
    assert len(written["rows"]) == 11 and written["settings"]["split"] == "val"
    assert "| 0, 1, 2, 3 | max |" in (tmp_path / "teacher.md").read_text()


def test_wrong_settings_are_refused_before_the_host_is_loaded() -> None:
    for settings, error in (
        ({"videos": 0}, ConfigError),
        ({"budgets": []}, ConfigError),
        ({"budgets": [2.0]}, BudgetError),
    ):
        with pytest.raises(error):
            bench_teacher("no/such/host", **settings)
