"""flex_select: its counterpart, what it learns, and in which steps its parameters get gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.base.trained_selector import deviation
from framefold.errors import ConfigError, InputError, UnknownCompressorError
from framefold.training.score_losses import listwise_loss, rank_loss
from tests.support.contract import GRIDS, KINDS, WIDTH, features, same, wrap
from tests.support.videos import DTYPES, noise

SMALL: dict[str, Any] = {"inner": 16, "heads": 2, "dim": WIDTH}


def fresh(**params: Any) -> framefold.Compressor:
    torch.manual_seed(0)
    return framefold.build("flex_select", 0.3, **{**SMALL, **params})


def test_a_fresh_one_equals_its_start_bit_by_bit() -> None:
    for name in ("mean_similarity", "longest", "attention"):
        plain, selector = framefold.build(name, 0.3), fresh(counterpart=name)
        assert selector.counterpart == name and selector.needs_attention == plain.needs_attention
        for grid in GRIDS:
            for kind in KINDS:
                video = wrap(features(grid, kind, seed=5))
                out = selector(video, noise(5, WIDTH))
                assert same(plain(video).tokens, out.tokens), (name, grid, kind)
                assert torch.equal(plain.score(video, None), out.scores), (name, grid, kind)
        for dtype in DTYPES:
            video = wrap(features((6, 3, 4)).to(dtype))
            assert same(plain(video).tokens, selector(video, noise(5, WIDTH).to(dtype)).tokens), (name, dtype)


def test_extreme_scales_of_features_change_neither_the_start_nor_the_learned_scores() -> None:
    selector, x, query = fresh(), features((6, 3, 4)), noise(5, WIDTH)
    for parameter in selector.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    expected = selector(wrap(x), query)
    for exponent in (-14, -6, 6, 14, 60):
        found = selector(wrap(x * 2.0**exponent), query)
        assert torch.equal(found.tokens.index, expected.tokens.index), exponent


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_gets_a_gradient_within_two_steps_of_the_rank_loss(autocast: bool) -> None:
    for params in ({}, {"layers": 1}, {"layers": 3}):
        selector = fresh(**params).train()
        optimizer = torch.optim.SGD(selector.parameters(), lr=0.1)
        reached: set[str] = set()
        for step in range(3 if params.get("layers", 2) == 3 else 2):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                scores = selector(wrap(features((6, 3, 4))), noise(5, WIDTH)).scores
            optimizer.zero_grad()
            rank_loss([scores], [noise(72, seed=4)]).backward()
            gradients = {name: parameter.grad for name, parameter in selector.named_parameters()}
            assert all(grad is not None and bool(torch.isfinite(grad).all()) for grad in gradients.values()), step
            reached |= {name for name, grad in gradients.items() if bool(grad.any())}
            optimizer.step()
        assert reached == set(gradients), (params, set(gradients) - reached)


def needles(seed: int) -> tuple[VideoTokens, Tensor, Tensor, Tensor]:
    """A video with two kinds of marked tokens, the words that ask for either kind, and where they are."""
    x, generator = 0.3 * noise(8, 3, 3, WIDTH, seed=seed), torch.Generator().manual_seed(seed)
    places = torch.randperm(72, generator=generator)[:8]
    marks = noise(2, WIDTH, seed=99)
    x.view(72, WIDTH)[places] += marks.repeat_interleave(4, 0)
    words = torch.stack([torch.cat([noise(3, WIDTH, seed=50), noise(1, WIDTH, seed=60 + kind)]) for kind in (0, 1)])
    return wrap(x), words, places[:4], places[4:]


def test_it_learns_to_rank_what_the_question_asks_for() -> None:
    selector = fresh(inner=32).train()
    optimizer = torch.optim.Adam(selector.parameters(), lr=0.01)
    for step in range(50):
        video, words, *places = needles(step)
        scores = [selector(video, query).scores for query in words]
        targets = [torch.zeros(72).index_fill(0, rows, 1.0) for rows in places]
        optimizer.zero_grad()
        listwise_loss(scores, targets).backward()
        optimizer.step()
    found = {selector.eval(): [], framefold.build("mean_similarity"): []}  # type: ignore[var-annotated]
    for seed in range(200, 210):
        video, words, *places = needles(seed)
        for compressor, shares in found.items():
            compressor.budget = 4
            for query, rows in zip(words, places, strict=True):
                shares.append(float(torch.isin(rows, compressor(video, query).tokens.index).float().mean()))
    learned, start = (sum(shares) / len(shares) for shares in found.values())
    assert learned > 0.9 and start < 0.6, (learned, start)


def test_ranks_know_no_budget() -> None:
    selector, video, query = fresh().eval(), wrap(features((6, 3, 4))), noise(5, WIDTH)
    selector.budget = 72
    order = selector(video, query).scores.sort(descending=True, stable=True).indices
    for k in (1, 7, 40):
        selector.budget = k
        assert torch.equal(selector(video, query).tokens.index, order[:k].sort().values)


def test_coverage_keeps_evenly_spaced_tokens_beside_the_best() -> None:
    video, query = wrap(features((6, 3, 4))), noise(5, WIDTH)
    selector = fresh(coverage=0.5).eval()
    selector.budget = 10
    out = selector(video, query)
    assert out.scores is not None
    best = out.scores.sort(descending=True, stable=True).indices
    kept = set(out.tokens.index.tolist())
    assert len(kept) == 10 and set(best[:5].tolist()) <= kept and kept != set(best[:10].tolist())
    selector.coverage = 0.0
    assert set(selector(video, query).tokens.index.tolist()) == set(best[:10].tolist())


def test_the_unit_of_learned_scores_is_the_deviation_of_the_start() -> None:
    assert float(deviation(torch.tensor([1.0, 3.0]))) == 1.0
    assert float(deviation(torch.full((4,), 7.0))) == 1.0  # equal scores: what is learned must still count
    selector, video, query = fresh(), wrap(features((6, 3, 4))), noise(5, WIDTH)
    selector.blocks[-1].q_proj.bias.data.fill_(1.0)
    start = framefold.build("mean_similarity").score(video, None)
    learned = selector.learned(video, query)
    assert float(learned.detach().abs().max()) > 0
    torch.testing.assert_close(selector(video, query).scores, start + start.std(correction=0) * learned)


def test_wrong_parameters_are_refused() -> None:
    for params in (
        {"inner": 0},
        {"inner": 18, "heads": 4},
        {"heads": 0},
        {"layers": 0},
        {"dim": 0},
        {"inner": 10**9},
        {"coverage": 1.0},
    ):
        with pytest.raises(ConfigError, match="flex_select"):
            framefold.build("flex_select", **params)
    for name in ("uniform", "qtsplus", "flex_select", "st_simdiff"):
        with pytest.raises(ConfigError, match=f"{name} gives tokens no scores"):
            framefold.build("flex_select", counterpart=name)
    with pytest.raises(UnknownCompressorError, match="longest"):
        framefold.build("flex_select", counterpart="longst")
    with pytest.raises(InputError, match="width 16, but the video has width 8"):
        fresh()(VideoTokens.from_grid(torch.ones(2, 2, 2, 8)), torch.ones(3, 8))


def test_it_is_saved_with_its_start(tmp_path: Any) -> None:
    selector, video, query = fresh(counterpart="attention").eval(), wrap(features((6, 3, 4))), noise(5, WIDTH)
    for parameter in selector.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    selector.save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path).eval()
    assert loaded.params() == selector.params() and loaded.needs_attention and not loaded.is_untrained
    assert torch.equal(loaded(video, query).scores, selector(video, query).scores)
