"""CDPruner: relevance to the question, and the choice of the release."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.cdpruner import relevance
from framefold.errors import ConfigError
from tests.support.videos import noise

VIDEO = VideoTokens.from_grid(noise(6, 3, 3, 16, seed=1))


def test_tokens_like_the_question_are_preferred() -> None:
    words = VIDEO.features[[7, 40]]
    for sign, expected in ((1, True), (-1, False)):
        kept = framefold.build("cdpruner", 10, sign=sign, scope="video")(VIDEO, words).tokens.index.tolist()
        assert ({7, 40} <= set(kept)) is expected


def test_the_least_relevant_token_comes_last() -> None:
    words = noise(3, 16, seed=2)
    unit = torch.nn.functional.normalize(VIDEO.features, dim=-1)
    fit = relevance(unit, words, 1)
    assert fit.min() == 0 and fit.max() == 1
    kept = framefold.build("cdpruner", 53, sign=1)(VIDEO, words).tokens.index
    assert int(fit.argmin()) not in kept


def test_question_that_says_nothing_leaves_the_choice_to_diversity() -> None:
    nothing = torch.zeros(2, 16)
    kept = framefold.build("cdpruner", 12, scope="video")(VIDEO, nothing).tokens.index
    assert torch.equal(kept, framefold.build("dpp", 12)(VIDEO).tokens.index)


def test_frames_get_equal_numbers_and_choose_on_their_own() -> None:
    words = noise(3, 16, seed=2)
    kept = framefold.build("cdpruner", 20, scope="frame")(VIDEO, words).tokens.index
    assert sorted(torch.bincount(kept // 9).tolist()) == [3, 3, 3, 3, 4, 4]
    nothing = framefold.build("cdpruner", 18, scope="frame")(VIDEO, torch.zeros(2, 16)).tokens.index.view(6, 3)
    for i, frame in enumerate(VIDEO.as_grid()):
        alone = framefold.build("dpp", 3)(VideoTokens.from_grid(frame[None])).tokens.index
        assert torch.equal(nothing[i] - 9 * i, alone)


def test_official_takes_equally_many_distinct_tokens_of_each_frame() -> None:
    words = noise(3, 16, seed=2)
    kept = framefold.build("cdpruner", 0.3, variant="official")(VIDEO, words).tokens
    assert torch.bincount(kept.index // 9).tolist() == [3] * 6  # round(0.3 * 54 / 6)
    same = VideoTokens.from_grid(VIDEO.as_grid()[:, :1].expand(6, 3, 3, 16))  # three directions in a frame
    kept = framefold.build("cdpruner", 0.9, variant="official")(same, words).tokens
    assert len(kept) < 48


def test_settings_out_of_range_are_refused() -> None:
    for params in ({"ridge": 0.0}, {"sign": 0}, {"variant": "released"}, {"scope": "all"}):
        with pytest.raises(ConfigError):
            framefold.build("cdpruner", **params)  # type: ignore[arg-type]
