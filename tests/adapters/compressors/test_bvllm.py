"""bvllm: its start at uniform, frames by the question, distinct rows, gradients, scores and noise."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.bvllm import distinct_frames
from framefold.adapters.layers.time_encoding import time_features
from framefold.errors import ConfigError, InputError
from framefold.training.losses import listwise_loss
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16


def video(frames: int = 12) -> VideoTokens:
    return VideoTokens.from_grid(features((frames, 3, 4), "random"), times=0.5 * torch.arange(frames))


def words(seed: int = 9) -> Tensor:
    return noise(5, WIDTH, seed=seed)


def moved(budget: float | int = 40, **params: Any) -> Any:
    """A compressor whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("bvllm", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_uniform_bit_by_bit() -> None:
    plain, fresh = framefold.build("uniform"), framefold.build("bvllm")
    budgets, dtypes = (1, 0.07, 0.5, 47, 143, 1.0), (torch.float32, torch.bfloat16, torch.float16, torch.float64)
    for dtype, budget, frames in itertools.product(dtypes, budgets, (1, 12)):
        with case(dtype, budget, frames):
            clip = video(frames).to(dtype)
            fresh.budget = plain.budget = budget
            assert same(fresh(clip, words().to(dtype)).tokens, plain(clip).tokens)
            with torch.autocast("cpu", torch.bfloat16):
                assert same(fresh(clip, words().to(dtype)).tokens, plain(clip).tokens)
    half = framefold.build("bvllm", 30, dim=WIDTH).bfloat16()
    clip, plain.budget = video().to(torch.bfloat16), 30
    assert same(half(clip, words().bfloat16()).tokens, plain(clip).tokens)


def test_rows_take_their_best_frames_by_question_and_time() -> None:
    """The rule of the docstring; 40 of 144 tokens: rows at frames 1, 4, 7, 10, of which the last one has 4 tokens."""
    compressor, clip = moved(), video()
    with torch.no_grad():
        compressor.prior.fill_(0.7)
    result = compressor(clip, words())
    means = clip.as_grid().mean((1, 2))
    means = means - means.mean(0)
    word = words().mean(0) / words().mean(0).square().mean().sqrt()
    times = time_features(clip)[::12]
    keys = compressor.key(means / means.square().mean().sqrt()) + compressor.key_time(times)
    taken, contents = [], []
    for own in (1, 4, 7, 10):
        query = compressor.word(word) + compressor.query_time(times[own])
        contents.append(keys @ query / 8)
        logits = contents[-1] - 0.7 * (torch.arange(12) != own)
        logits[taken] = -torch.inf
        taken.append(int(logits.argmax()))
    assert taken != [1, 4, 7, 10]
    rows = [12 * frame + cell for frame in taken[:3] for cell in range(12)]
    rows += [12 * taken[3] + cell for cell in (1, 4, 7, 10)]
    assert result.tokens.index.tolist() == sorted(rows)
    assert torch.equal(result.tokens.features, clip.features[sorted(rows)])
    expected = torch.stack(contents).mean(0).repeat_interleave(12)
    torch.testing.assert_close(result.scores, expected, atol=1e-5, rtol=1e-4)


def test_every_row_takes_a_frame_of_its_own() -> None:
    logits = torch.tensor([[5.0, 0, 1, 2], [5, 4, 0, 0], [5, 4, 0, 1], [9, 9, 9, 9]])
    assert distinct_frames(logits).tolist() == [0, 1, 3, 2]
    compressor = moved()
    for budget in (1, 12, 47, 100, 144):
        compressor.budget = budget
        index = compressor(video(), words()).tokens.index
        assert len(index) == budget and bool((index.diff() > 0).all())
        assert int((index // 12).unique().numel()) == -(-budget // 12)


def test_the_question_changes_which_frames_are_kept() -> None:
    compressor = moved()
    kept = {tuple(compressor(video(), words(seed)).tokens.index.tolist()) for seed in range(4)}
    assert len(kept) > 1 and compressor.query_aware
    with pytest.raises(InputError, match="query"):
        compressor(video())


def test_gradients_are_those_of_the_weighted_means_of_frames() -> None:
    compressor, clip, wanted = moved(24), video(), noise(24, WIDTH, seed=5)
    (compressor(clip, words()).tokens.features * wanted).sum().backward()
    found = {name: p.grad.clone() for name, p in compressor.named_parameters()}
    compressor.zero_grad()
    own = torch.tensor([3, 9])
    logits = compressor.content(clip, words(), own) - compressor.prior * (torch.arange(12) != own[:, None])
    means = torch.einsum("rt,tpd->rpd", logits.softmax(-1), clip.as_grid().flatten(1, 2))
    chosen = distinct_frames(logits)
    means = means[chosen.argsort()].flatten(0, 1)
    (means * wanted).sum().backward()
    for name, p in compressor.named_parameters():
        torch.testing.assert_close(found[name], p.grad, atol=1e-5, rtol=1e-3)


def test_without_gradients_no_means_of_frames_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = moved()
    monkeypatch.setattr(compressor, "surrogate", None)
    with torch.no_grad():
        compressor(video(), words())
    with pytest.raises(TypeError):
        compressor(video(), words())


def test_evidence_brings_in_its_frame() -> None:
    compressor = framefold.build("bvllm", 24, dim=WIDTH).train()
    optimizer, evidence = torch.optim.Adam(compressor.parameters(), lr=0.05), torch.zeros(144)
    evidence[5 * 12 + 3] = 1
    assert 5 not in compressor(video(), words()).tokens.index // 12
    for _ in range(40):
        optimizer.zero_grad()
        listwise_loss([compressor(video(), words()).scores], [evidence]).backward()
        optimizer.step()
    assert 5 in compressor.eval()(video(), words()).tokens.index // 12


def test_noise_is_for_training_alone() -> None:
    compressor = moved(noise=5.0)
    assert same(compressor(video(), words()).tokens, compressor(video(), words()).tokens)
    compressor.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = {tuple(compressor(video(), words()).tokens.index.tolist()) for _ in range(5)}
    assert len(drawn) > 1


def test_every_parameter_has_a_gradient_within_two_steps() -> None:
    check_gradients_within_two_steps(framefold.build("bvllm", 0.2, dim=WIDTH), video(), words())


def test_scales_of_features_and_words_change_nothing() -> None:
    compressor, clip = moved(), video()
    for factor in (1e-20, 1e3):
        large = VideoTokens.from_grid(factor * clip.as_grid(), times=clip.times)
        assert torch.equal(compressor(large, 7 * words()).tokens.index, compressor(clip, words()).tokens.index)


def test_weights_are_made_on_the_meta_device_and_are_few() -> None:
    for width in (3584, 8192):
        compressor = framefold.build("bvllm")
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        assert sum(p.numel() for p in compressor.parameters()) == 2 * 64 * width + 2 * 64 * 32 + 1


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"inner": 0, "noise": -1.0, "dim": 2**40}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("bvllm", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)), noise(3, 8))
