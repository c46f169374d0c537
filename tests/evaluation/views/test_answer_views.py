"""Views of the answers whose values are known, and the coverage of their intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from framefold.evaluation.metrics.evidence import evidence_place
from framefold.evaluation.results.measure import Readings
from framefold.evaluation.results.measures import MEASURES
from framefold.evaluation.results.measures_of_totals import shared
from framefold.evaluation.views.answer_views import answer_view

BY_KEY = {measure.key: measure for measure in MEASURES}


def result(name: str = "some", exclude: tuple[str, ...] = (), **columns: list[Any]) -> dict[str, Any]:
    count = len(columns["correct"])
    given = {"type": ["needle"] * count, "draw": list(range(count))} | columns
    return {"settings": {"compressor": name, "exclude": list(exclude)}, "answers": given}


def value(results: list[dict[str, Any]], key: str, resized: list[dict[str, Any]] | None = None) -> float | None:
    interval = answer_view(results, resized or [], key)
    return None if interval is None else interval.value


def test_accuracy_and_recall_by_position_are_means_over_the_questions_there() -> None:
    one = result(
        correct=[True, False, True, True, False],
        recall=[1.0, 0.5, 0.0, 1.0, None],
        when=[0.0, 0.09, 0.95, 1.0, None],
        where=["centre", "edge", "edge", "edge", None],
        exclude=("other",),
    )
    assert (value([one], "when:0"), value([one], "when:9"), value([one], "when:5")) == (0.5, 1.0, None)
    assert value([one], "recall_when:0") == 0.75 and value([one], "recall_when:9") == 0.5
    assert value([one], "where:centre") == 1.0 and value([one], "where:edge") == pytest.approx(2 / 3)
    assert value([one], "recall_where:edge") == 0.5
    one["answers"]["type"][0] = "other"
    assert value([one], "when:0") == 0.0, "questions that do not count for the headline are left out"


def test_seeds_are_averaged_question_by_question() -> None:
    seeds = [result(correct=[True, True], when=[0.1, 0.1]), result(correct=[False, True], when=[0.1, 0.1])]
    assert value(seeds, "when:1") == 0.75


def test_asked_again_compares_the_same_questions_and_is_a_mean_over_types() -> None:
    one = result(
        correct=[True, True, True, False, True],
        again=[True, False, False, False, None],
        type=["a", "a", "a", "b", "b"],
    )
    assert value([one], "again") == pytest.approx((1 / 3 + 0) / 2)
    assert value([one], "again_loss") == pytest.approx(((1 / 3 - 1) + 0) / 2), "the question without another is out"
    assert value([result(correct=[True])], "again") is None


def test_questions_that_resize_fails_are_chosen_by_its_answers() -> None:
    one, resized = result(correct=[True, True, False]), [result("resize", correct=[True, False, False])]
    assert value([one], "resize_fails", resized) == 0.5
    assert value(resized, "resize_fails", resized) is None and value([one], "resize_fails") is None


def test_evidence_has_a_position_if_it_is_at_one_place_of_the_video() -> None:
    grid = (20, 4, 4)
    mask = np.zeros(grid, bool)
    mask[4:6, 1:3, 1:3] = True
    assert evidence_place(mask.reshape(-1), grid) == (5 / 20, "centre")
    mask[6, 0, 0] = True
    assert evidence_place(mask.reshape(-1), grid)[0] is None, "three of twenty frames are more than a tenth"
    edge = np.zeros(grid, bool)
    edge[19, 3, 0] = True
    assert evidence_place(edge.reshape(-1), grid) == (19.5 / 20, "edge")
    assert evidence_place(np.zeros(320, bool), grid) == (None, None)


def test_intervals_of_views_cover_the_truth() -> None:
    rng, runs, covered = np.random.default_rng(0), 400, {"when:3": 0, "resize_fails": 0, "again_loss": 0}
    for _ in range(runs):
        ease = np.repeat(rng.normal(0, 0.1, 80), 2)  # two questions about each of 80 videos are correlated
        luck = rng.random(160)
        one = result(
            correct=(luck < 0.7 + ease).tolist(),
            again=((luck + 0.15 + rng.normal(0, 0.1, 160)) < 0.7 + ease).tolist(),
            when=[0.35] * 160,
            draw=np.repeat(np.arange(80), 2).tolist(),
        )
        resized = [result("resize", correct=(rng.random(160) < 0.4).tolist())]
        truths = {"when:3": 0.7, "resize_fails": 0.7, "again_loss": -0.15}
        for key, truth in truths.items():
            interval = answer_view([one], resized, key)
            assert interval is not None
            covered[key] += interval.low <= truth <= interval.high
    assert all(0.93 <= count / runs <= 0.98 for count in covered.values()), covered


COSTS = {"tower_flops": 100.0, "compressor_flops": 10.0, "prefill_flops": 50.0, "answer_flops": 3.0}
COSTS |= {"tower_ms": 20.0, "compressor_ms": 4.0, "prefill_ms": 8.0, "question_ms": 1.0}


@pytest.mark.parametrize(("anew", "five", "twenty"), [(0.0, 160 / 5 + 3, 160 / 20 + 3), (1.0, 20 + 63, 5 + 63)])
def test_costs_are_shared_by_the_questions_about_a_video(anew: float, five: float, twenty: float) -> None:
    readings = Readings(stored=(COSTS | {"per_question": anew}).get)
    assert BY_KEY["flops_5"].value(readings) == five and BY_KEY["flops_20"].value(readings) == twenty
    assert BY_KEY["total_flops"].value(readings) == 163.0 and BY_KEY["first_token_ms"].value(readings) == 33.0
    once = shared(readings, ("tower_flops", "compressor_flops", "prefill_flops"), "answer_flops", 1)
    assert once == 163.0, "one question costs the same whether compression is per question or per video"
    assert BY_KEY["ms_5"].value(Readings(stored={}.get)) is None
