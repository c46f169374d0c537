"""dart: against a slow reference, fewer tokens than pivots, copies, pivots in the question, official counts."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError, InputError
from tests.support.videos import kept_rows, noise, synthetic


def slowly(x: torch.Tensor, k: int, pivots: int, text: torch.Tensor) -> list[int]:
    """The rule of the docstring of DART."""
    x = x.reshape(-1, x.shape[-1]).double()
    image = sorted(range(len(x)), key=lambda row: -x[row].abs().sum())[: min(pivots, k)]
    words = sorted(text.double(), key=lambda word: -word.abs().sum())
    kept, takers = list(image), [*words, *x[image]]
    rest = k - len(image)
    for i, taker in enumerate(takers):
        similar = torch.cosine_similarity(x, taker[None], dim=-1).tolist()
        left = sorted((row for row in range(len(x)) if row not in kept), key=lambda row: similar[row])
        kept += left[: (i + 1) * rest // len(takers) - i * rest // len(takers)]
    return sorted(kept)


def test_exact_against_the_reference() -> None:
    for kind, seed in (("drift", 0), ("noise", 1)):
        x = synthetic((6, 3, 5), kind, seed)
        for k, pivots in ((3, 8), (8, 8), (23, 8), (90, 8), (17, 3)):
            assert kept_rows("dart", x, k, pivots=pivots) == slowly(x, k, pivots, x.new_zeros(0, 8))


def test_pivots_of_the_question_take_tokens_first_but_are_not_kept() -> None:
    x, query = synthetic((6, 3, 5), "noise"), noise(3, 8, seed=4)
    video, compressor = VideoTokens.from_grid(x), framefold.build("dart", 20, pivots=4, text_pivots=5)
    assert compressor(video, query * 1e20).tokens.index.tolist() == slowly(x, 20, 4, query)
    with pytest.raises(InputError, match="query-aware"):
        compressor(video)
    assert not framefold.build("dart", 20).query_aware


def test_equal_tokens_go_to_the_lower_index() -> None:
    x = noise(1, 7, 9, 300).repeat(30, 1, 1, 1)
    kept = kept_rows("dart", x, 0.1)
    for row in kept:
        assert row < 63 or row - 63 in kept  # a later copy only after the earlier ones
    assert kept_rows("dart", x.new_ones(4, 2, 2, 8), 5) == [0, 1, 2, 3, 4]


def test_official_counts_as_the_release() -> None:
    x, query = synthetic((6, 3, 5), "noise"), noise(6, 8)
    video = VideoTokens.from_grid(x)
    for ratio, each in ((0.5, 5), (0.02, 1)):  # int(90 * 0.5 / 8) and at least one
        official = framefold.build("dart", ratio, variant="official", pivots=4, text_pivots=4)
        assert len(official(video, query).tokens) == 4 + 8 * each
    assert len(kept_rows("dart", x, 80, variant="official")) == 88
    assert len(kept_rows("dart", x, 90, variant="official")) == 90


def test_parameters_out_of_range_raise() -> None:
    for params in ({"pivots": 0}, {"text_pivots": -1}):
        with pytest.raises(ConfigError, match="out of range"):
            framefold.build("dart", 0.1, **params)
