"""tdc: its start at static_mean, static frames, and the segments that tokens attend to."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.errors import ConfigError, InputError
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
SETTINGS: list[dict[str, Any]] = [{}, {"inner": 8, "layers": 2}, {"reads": "question"}, {"static_share": 0.0}]


def video(x: Tensor | None = None) -> VideoTokens:
    return VideoTokens.from_grid(features((12, 3, 4)) if x is None else x, times=0.5 * torch.arange(12))


def words(seed: int = 9) -> Tensor:
    return noise(5, WIDTH, seed=seed)


def moved(budget: float | int = 60, **params: Any) -> Any:
    """A tdc whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("tdc", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_static_mean_bit_by_bit() -> None:
    budgets, dtypes = (1, 0.07, 30, 0.5, 143, 1.0), (torch.float32, torch.bfloat16, torch.float64)
    for setting in SETTINGS:
        share = setting.get("static_share", 0.55)
        fresh, plain = framefold.build("tdc", **setting), framefold.build("static_mean", static_share=share)
        for dtype, budget in itertools.product(dtypes, budgets):
            with case(setting, dtype, budget):
                clip = video().to(dtype)
                fresh.budget = plain.budget = budget
                expected = plain(clip).tokens
                assert same(fresh(clip, words().to(dtype)).tokens, expected)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip, words().to(dtype)).tokens, expected)
        half = framefold.build("tdc", 17, dim=WIDTH, **setting).bfloat16()
        clip, plain.budget = video().to(torch.bfloat16), 17
        assert same(half(clip, words().bfloat16()).tokens, plain(clip).tokens), setting


def test_static_frames_stay_and_all_other_tokens_change() -> None:
    """60 of 144 tokens: two static frames of 12."""
    compressor, clip = moved(), video()
    out, start = compressor(clip).tokens, framefold.build("static_mean", 60)(clip).tokens
    _, static = compressor.start.segments(clip, 60)
    assert int(static.sum()) == 2
    kept = static[out.index // 12]
    assert int(kept.sum()) == 24 and torch.equal(out.features[kept], clip.features[out.index[kept]])
    assert ((out.features - start.features).abs().amax(1)[~kept] > 0.01).all()
    assert torch.equal(out.index, start.index) and torch.equal(out.assign, start.assign)


def test_a_frame_of_another_segment_changes_nothing() -> None:
    compressor, clip = moved(), video()
    first, (segment, static) = compressor(clip).tokens, compressor.start.segments(video(), 60)
    own = segment[first.index // 12]
    assert set(own.tolist()) == {0, 1}
    for frame in range(12):
        x = clip.as_grid().clone()
        x[frame] *= 1.5  # every cosine similarity stays, and with it the segments
        out = compressor(video(x)).tokens
        assert torch.equal(out.index, first.index)
        for number in (0, 1):
            rows = (own == number) & ~static[first.index // 12]
            changed = (out.features[rows] != first.features[rows]).any(1)
            assert bool(changed.all()) if segment[frame] == number else not changed.any(), (frame, number)


def test_a_segment_equals_a_video_of_its_own() -> None:
    compressor, clip = moved(), video()
    with torch.no_grad():
        for layer in (compressor.resampler.when, compressor.resampler.place):
            layer.weight.zero_()  # times differ
    whole, (segment, static) = compressor(clip).tokens, compressor.start.segments(clip, 60)
    frames = segment == 1
    start = framefold.build("static_mean", 60)(clip).tokens
    rows = (frames & ~static)[whole.index // 12].nonzero()[:, 0]
    memory = clip.as_grid()[frames].reshape(1, -1, WIDTH)
    scale = memory.square().mean().sqrt()
    change = compressor.resampler(
        start.features[rows] / scale, memory / scale, torch.zeros(len(rows), 32), torch.zeros(*memory.shape[:2], 32),
        torch.zeros_like(rows),
    )  # fmt: skip
    torch.testing.assert_close(whole.features[rows], start.features[rows] + change * scale, atol=1e-5, rtol=1e-4)


def test_the_question_changes_the_result_only_where_it_is_read() -> None:
    for reads in ("nothing", "question"):
        compressor = moved(reads=reads)
        assert compressor.query_aware == (reads == "question")
        one, two = (compressor(video(), words(seed)).tokens.features for seed in (1, 2))
        assert torch.equal(one, two) == (reads == "nothing")
    with pytest.raises(InputError, match="query"):
        moved(reads="question")(video())


@pytest.mark.parametrize("setting", [*SETTINGS, {"rebuild": 0.1}])
def test_every_parameter_has_a_gradient_within_two_steps(setting: dict[str, Any]) -> None:
    check_gradients_within_two_steps(framefold.build("tdc", 40, dim=WIDTH, **setting), video(), words())


def test_weights_are_made_on_the_meta_device_at_every_width() -> None:
    for width in (3584, 8192):
        compressor = framefold.build("tdc")
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        least = 2 * width * 512 + 12 * 512**2
        assert least < sum(p.numel() for p in compressor.parameters()) < 1.05 * least


def test_parameters_out_of_range_are_refused() -> None:
    for name, value in {"static_share": 1.0, "reads": "answer", "layers": 0, "rebuild": -1.0}.items():
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("tdc", **{name: value})
    with pytest.raises(InputError, match="width 16"):
        moved()(VideoTokens.from_grid(noise(4, 2, 2, 8)))
