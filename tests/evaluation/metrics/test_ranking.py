"""Areas under curves of scores that rank evidence, against values that are known."""

from __future__ import annotations

import numpy as np
import pytest

from framefold.evaluation.metrics.ranking import ranking_auc, recall_auc, top_recall

SCORES = np.array([0.0, 1, 2, 3, 4, 5, 6, 7])


def mask(*rows: list[int]) -> np.ndarray:
    out = np.zeros((len(rows), len(SCORES)), bool)
    for number, places in enumerate(rows):
        out[number, places] = True
    return out


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    evidence = mask([6, 7], [0, 1], [0, 7], [3], list(range(8)), [])
    expected = [1, 0, 0.5, 3 / 7, np.nan, np.nan]
    np.testing.assert_allclose(ranking_auc(SCORES, evidence), expected)


def test_equal_scores_count_half() -> None:
    assert ranking_auc(np.zeros(8), mask([2, 5])).item() == 0.5
    assert ranking_auc(np.array([0, 0, 0, 0, 1, 1, 1, 1]), mask([0, 4])).item() == 0.5


def test_auc_equals_the_count_over_all_pairs() -> None:
    generator = np.random.default_rng(0)
    scores, evidence = generator.integers(0, 9, 50), generator.random((4, 50)) < 0.2
    for auc, held in zip(ranking_auc(scores, evidence), evidence, strict=True):
        better = scores[held][:, None] - scores[~held]
        assert auc == pytest.approx(((better > 0) + 0.5 * (better == 0)).mean())


def test_top_recall_counts_the_evidence_among_the_highest_scores() -> None:
    assert top_recall(SCORES, mask([6, 7], [0, 7], [0]), 0.25).tolist() == [1, 0.5, 0]
    assert top_recall(np.zeros(8), mask([0], [7]), 0.125).tolist() == [1, 0]  # ties go to the lower index
    assert top_recall(SCORES, mask([7]), 0.01).item() == 1  # at least one token


def test_recall_of_budgets_gives_the_area_of_its_curve() -> None:
    shares = [0.25, 0.5]
    assert recall_auc(shares, np.array([shares]).T).item() == 0.5  # as many of the evidence as of all tokens
    assert recall_auc(shares, np.ones((2, 1))).item() == pytest.approx(1 - 0.25 / 2)
    assert recall_auc(shares, np.zeros((2, 1))).item() == pytest.approx(0.25)
