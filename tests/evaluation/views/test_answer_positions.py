"""Loss by position in long answers: values that are known, and the coverage of the intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framefold.evaluation.results.measures_of_answers import ANSWER_PARTS, POSITION_MEASURES
from framefold.evaluation.views.answer_views import answer_view

Losses = list[list[float] | None]


def result(losses: Losses | None, draw: list[int] | None = None, **more: Any) -> dict[str, Any]:
    count = len(losses or ()) or 3
    columns = {"type": ["list"] * count, "draw": draw or list(range(count))} | more
    columns |= {} if losses is None else {"losses": losses}
    return {"settings": {"compressor": "some", "exclude": ["list"]}, "answers": columns}


def value(results: list[dict[str, Any]], key: str, full: list[dict[str, Any]] | None = None) -> float | None:
    interval = answer_view(results, [], key, full or [])
    return None if interval is None else interval.value


def test_positions_are_means_over_the_questions_that_have_them() -> None:
    one = [result([[1.0, 2.0, 4.0, 6.0, 9.0], [3.0, 0.0], None])]
    assert value(one, "loss_at:1") == 2.0 and value(one, "loss_at:2") == 1.0, "excluded types count as well"
    assert value(one, "loss_at:3-4") == 5.0, "only the first answer is as long"
    assert value(one, "loss_at:5-8") == 9.0 and value(one, "loss_at:9-16") is None
    assert value(one, "loss_at:all") == pytest.approx((22 / 5 + 3 / 2) / 2), "every question counts equally"


def test_added_loss_is_the_difference_to_all_tokens_question_by_question() -> None:
    full = [result([[1.0, 1.0], [2.0, 2.0, 2.0], None])]
    some = [result([[1.0, 3.0], [2.5, 1.0, 5.0], None])]
    assert value(some, "added_loss_at:1", full) == 0.25 and value(some, "added_loss_at:2", full) == 0.5
    assert value(some, "added_loss_at:3-4", full) == 3.0 and value(full, "added_loss_at:all", full) == 0.0
    assert value(some, "added_loss_at:1") is None, "all tokens were not run"
    assert value([result(None)], "loss_at:1") is None, "results of earlier versions have no losses"
    assert value(some, "added_loss_at:1", [result(None)]) is None


def test_seeds_are_averaged_question_by_question() -> None:
    seeds = [result([[1.0, 1.0], [2.0, 2.0]]), result([[3.0, 1.0], [2.0, 2.0]])]
    assert value(seeds, "loss_at:1") == 2.0 and value(seeds, "added_loss_at:1", [result([[1.0, 1.0]] * 2)]) == 1.0


def test_every_position_of_an_answer_is_in_one_part_and_has_both_measures() -> None:
    parts = {name: ends for name, ends in ANSWER_PARTS.items() if name != "all"}
    for position in range(1, 300):
        assert sum(first <= position <= (last or position) for first, last in parts.values()) == 1, position
    keys = {measure.key for measure in POSITION_MEASURES}
    assert keys == {f"{prefix}:{part}" for prefix in ("loss_at", "added_loss_at") for part in ANSWER_PARTS}


def test_intervals_cover_the_truth() -> None:
    rng, runs, covered = np.random.default_rng(0), 400, {"loss_at:all": 0, "loss_at:2": 0, "added_loss_at:2": 0}
    for _ in range(runs):
        draw = np.repeat(np.arange(60), 2)  # two questions about each of 60 videos are correlated
        ease, cost = np.repeat(rng.gamma(2.0, 0.3, 60), 2), np.repeat(rng.gamma(1.0, 0.4, 60), 2)
        full = rng.gamma(4.0, 0.25, (120, 4)) + ease[:, None]
        some = full + rng.normal(0, 0.2, full.shape) + cost[:, None]
        runs_of = [[result(one.tolist(), draw.tolist())] for one in (some, full)]
        for key, truth in {"loss_at:all": 2.0, "loss_at:2": 2.0, "added_loss_at:2": 0.4}.items():
            interval = answer_view(runs_of[0], [], key, runs_of[1])
            assert interval is not None
            covered[key] += interval.low <= truth <= interval.high
    assert all(0.93 <= count / runs <= 0.98 for count in covered.values()), covered
