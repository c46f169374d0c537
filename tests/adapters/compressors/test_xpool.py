"""xpool: its start at pool, weights by the question, scores, and its parameters."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError, InputError
from framefold.training.losses import listwise_loss
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
BUDGETS = (1, 0.07, 0.5, 143, 1.0)


def video(t: int = 12, h: int = 3, w: int = 4) -> VideoTokens:
    return VideoTokens.from_grid(features((t, h, w)), times=0.5 * torch.arange(t))


def words(seed: int = 9) -> Tensor:
    return noise(5, WIDTH, seed=seed)


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    """An xpool whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("xpool", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_pool_bit_by_bit() -> None:
    for spatial, reads, context in itertools.product((1, 2), ("question", "nothing"), ((), (8, 8))):
        fresh = framefold.build("xpool", spatial=spatial, reads=reads, context=context)
        plain = framefold.build("pool", spatial=spatial)
        for dtype, budget in itertools.product((torch.float32, torch.bfloat16, torch.float16, torch.float64), BUDGETS):
            with case(spatial, reads, context, dtype, budget):
                clip = video().to(dtype)
                fresh.budget = plain.budget = budget
                assert same(fresh(clip, words().to(dtype)).tokens, plain(clip).tokens)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip, words().to(dtype)).tokens, plain(clip).tokens)


def test_context_adds_to_the_keys() -> None:
    compressor, clip = moved(spatial=2, context=(8,)), video()
    both = compressor.logits(clip, words())
    frames = (clip.features / clip.features.square().mean().sqrt()).view(12, 3, 4, WIDTH)
    with torch.no_grad():
        asked = compressor.content + compressor.query(words() / words().square().mean(-1, keepdim=True).sqrt())
        added = compressor.surroundings(frames) @ asked.T / compressor.inner**0.5
        compressor.surroundings.out.weight.zero_()
        plain = compressor.logits(clip, words())
        assert float((both - plain).abs().max()) > 1e-2
        assert bool(((both - plain).abs() <= added.abs().amax(1) + 1e-4).all())
    with pytest.raises(ConfigError, match="context"):
        framefold.build("xpool", context=(-1,))


def test_weights_are_the_softmax_of_the_best_word_over_a_group() -> None:
    """The rule of the docstring, group by group."""
    for reads in ("question", "nothing"):
        compressor, clip = moved(spatial=2, reads=reads), video()
        result = compressor(clip, words())
        x, asked = (one / one.square().mean(-1, keepdim=True).sqrt() for one in (clip.features, words()))
        from framefold.adapters.layers.time_encoding import time_features

        keys = compressor.key(x) + compressor.time(time_features(clip))
        queries = compressor.content[None]
        queries = queries if reads == "nothing" else queries + compressor.query(asked)
        logits = (keys @ queries.T / 64**0.5).amax(1)
        for row in range(len(result.tokens)):
            members = result.tokens.assign == row
            weights = logits[members].softmax(0)
            torch.testing.assert_close(result.tokens.features[row], weights @ clip.features[members])
            torch.testing.assert_close(result.scores[members], (weights * members.sum()).log(), atol=1e-5, rtol=1e-4)


def test_the_question_changes_the_result_only_where_it_is_read() -> None:
    for reads in ("question", "nothing"):
        compressor = moved(reads=reads)
        assert compressor.query_aware == (reads == "question")
        one, two = (compressor(video(), words(seed)).tokens.features for seed in (1, 2))
        assert torch.equal(one, two) == (reads == "nothing")
    with pytest.raises(InputError, match="query"):
        moved()(video())
    every = moved(1.0)
    assert torch.equal(every(video(), words(1)).tokens.features, video().features)  # groups of one token


def test_evidence_raises_the_weight_of_an_evidence_token() -> None:
    compressor = framefold.build("xpool", 0.1, dim=WIDTH)
    optimizer, evidence = torch.optim.SGD(compressor.parameters(), lr=0.1), torch.zeros(144)
    evidence[53] = 1
    before = compressor(video(), words()).scores
    assert torch.equal(before, torch.zeros(144))
    listwise_loss([before], [evidence]).backward()
    optimizer.step()
    assert compressor(video(), words()).scores[53].item() > 1e-3


def test_scores_stay_finite_with_extreme_weights() -> None:
    compressor = moved()
    compressor.key.weight.data *= 1e4
    result = compressor(video(), words())
    assert torch.isfinite(result.scores).all() and torch.isfinite(result.tokens.features).all()


@pytest.mark.parametrize("reads", ["question", "nothing"])
def test_every_parameter_has_a_gradient_within_two_steps(reads: str) -> None:
    check_gradients_within_two_steps(framefold.build("xpool", 0.2, dim=WIDTH, reads=reads), video(), words())


def test_lengths_of_tokens_and_words_change_no_weight() -> None:
    compressor, clip = moved(), video()
    large = VideoTokens.from_grid(1000 * clip.as_grid(), times=clip.times)
    expected = 1000 * compressor(clip, words()).tokens.features
    torch.testing.assert_close(compressor(large, 0.01 * words()).tokens.features, expected, rtol=1e-4, atol=1e-2)


def test_weights_are_made_on_the_meta_device_and_are_few() -> None:
    for width in (3584, 8192):
        compressor = framefold.build("xpool")
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        assert sum(p.numel() for p in compressor.parameters()) == 2 * 64 * width + 32 * 64 + 64


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"reads": "answer", "inner": 0, "dim": 2**40, "spatial": 0}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("xpool", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)), noise(3, 8))
