"""The tokens of a grid that contain evidence."""

from __future__ import annotations

import pytest

from framefold.data.evidence import evidence_mask
from framefold.errors import DataError


def test_evidence_mask_marks_the_covered_tokens_of_any_grid():
    mask = evidence_mask([(1, 0.0, 0.0, 0.5, 0.5)], (3, 4, 4))
    assert mask[1, :2, :2].all() and mask.sum() == 4
    assert evidence_mask([(0, 0.4, 0.4, 0.45, 0.45)], (1, 2, 2)).sum() == 1  # too small to cover a quarter
    assert evidence_mask([], (2, 3, 3)).sum() == 0
    assert evidence_mask([(0, 0.0, 0.0, 1.0, 0.7)], (1, 1, 2)).sum() == 2  # the second is covered by 40 %
    assert evidence_mask([(0, 0.0, 0.0, 1.0, 0.6)], (1, 1, 2)).sum() == 1  # the second is covered by 20 %
    assert evidence_mask([(0, 0.0, 0.0, 1.0, 1.0)], (1, 7, 5)).all()
    with pytest.raises(DataError, match="frame 3"):
        evidence_mask([(3, 0.0, 0.0, 1.0, 1.0)], (3, 4, 4))
