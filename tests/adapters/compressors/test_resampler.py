"""resampler: its start at the counterpart, what it attends to, the question, the loss "rebuild", and its size."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import framefold
from framefold import VideoTokens
from framefold.adapters.core import registry
from framefold.adapters.layers.anchored_resampler import AnchoredResampler, rebuild_loss
from framefold.errors import ConfigError, InputError, UnknownCompressorError
from framefold.evaluation.metrics.flops import count_flops
from tests.support.cases import case
from tests.support.contract import features, same
from tests.support.gradients import check_gradients_within_two_steps
from tests.support.videos import noise

WIDTH = 16
COUNTERPARTS: dict[str, dict[str, Any]] = {
    "scene_mean": {"members": "cluster", "time_weight": 1.0},
    "pool": {"spatial": 2},
    "medoids": {},
    "uniform": {},
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"inner": 8},
    {"memory": "segment", "segment_frames": 5},
    {"memory": "frame", "layers": 2},
    {"reads": "question"},
]


def video(t: int = 12, h: int = 3, w: int = 4, width: int = WIDTH, seed: int = 0) -> VideoTokens:
    x = features((t, h, w), seed=seed) if width == WIDTH else noise(t, h, w, width, seed=seed)
    return VideoTokens.from_grid(x, times=0.5 * torch.arange(t))


def words(width: int = WIDTH, seed: int = 9) -> Tensor:
    return noise(5, width, seed=seed)


def moved(budget: float | int = 0.2, **params: Any) -> Any:
    """A resampler whose parameters have left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        compressor = framefold.build("resampler", budget, dim=WIDTH, **params)
        for parameter in compressor.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return compressor.eval()


def test_untrained_it_equals_its_counterpart_bit_by_bit() -> None:
    for (name, params), setting in itertools.product(COUNTERPARTS.items(), SETTINGS):
        fresh = framefold.build("resampler", counterpart=name, counterpart_params=params, **setting)
        plain = framefold.build(name, **params)
        for dtype, budget in itertools.product(
            (torch.float32, torch.bfloat16, torch.float64), (1, 0.07, 0.5, 143, 1.0)
        ):
            with case(name, setting, dtype, budget):
                clip = video().to(dtype)
                fresh.budget = plain.budget = budget
                expected = plain(clip).tokens
                assert same(fresh(clip, words().to(dtype)).tokens, expected)
                with torch.autocast("cpu", torch.bfloat16):
                    assert same(fresh(clip, words().to(dtype)).tokens, expected)
        half = framefold.build("resampler", 17, counterpart=name, counterpart_params=params, dim=WIDTH, **setting)
        clip, plain.budget = video().to(torch.bfloat16), 17
        assert same(half.bfloat16()(clip, words().bfloat16()).tokens, plain(clip).tokens), (name, setting)


def test_trained_it_keeps_the_books_of_its_counterpart() -> None:
    for name, params in COUNTERPARTS.items():
        compressor, plain = moved(counterpart=name, counterpart_params=params), framefold.build(name, 0.2, **params)
        out, start = compressor(video()).tokens, plain(video()).tokens
        assert torch.equal(out.index, start.index) and torch.equal(out.assign, start.assign), name
        assert (out.features - start.features).abs().mean() > 0.05


def test_frames_outside_the_memory_change_nothing() -> None:
    """Of 12 frames in windows of 5, frame 10 is in the last window, which is frames 7 to 11."""
    windows = {"frame": range(10, 11), "segment": range(7, 12), "video": range(12)}
    for memory, frames in windows.items():
        compressor = moved(36, counterpart="uniform", memory=memory, segment_frames=5)
        first = compressor(video()).tokens
        last = first.index // 12 == 10
        assert last.any()
        for frame in range(12):
            x = video().as_grid().clone()
            x[frame] += 3 * noise(3, 4, WIDTH, seed=frame)
            changed = compressor(VideoTokens.from_grid(x, times=0.5 * torch.arange(12))).tokens.features[last]
            assert torch.equal(changed, first.features[last]) == (frame not in frames), (memory, frame)


def test_windows_equal_videos_of_their_own() -> None:
    """Padding of windows with fewer queries is seen by no token, and every window is scaled by itself."""
    compressor = moved(35, counterpart="uniform", memory="frame")
    clip = video()
    with torch.no_grad():
        for layer in (compressor.resampler.when, compressor.resampler.place):
            layer.weight.zero_()  # times differ
    whole = compressor(clip).tokens
    for frame in range(12):
        rows = whole.index // 12 == frame
        if rows.any():
            own = VideoTokens.from_grid(clip.as_grid()[frame : frame + 1])
            compressor.budget = 1.0
            every = compressor(own).tokens.features[whole.index[rows] % 12]
            torch.testing.assert_close(whole.features[rows], every, atol=1e-5, rtol=1e-4)


def test_the_question_changes_the_result_only_where_it_is_read() -> None:
    for reads, inner in itertools.product(("nothing", "question"), (None, 8)):
        compressor = moved(reads=reads, inner=inner)
        assert compressor.query_aware == (reads == "question")
        one, two = (compressor(video(), words(seed=seed)).tokens.features for seed in (1, 2))
        assert torch.equal(one, two) == (reads == "nothing"), (reads, inner)
    with pytest.raises(InputError, match="query"):
        moved(reads="question")(video())


def test_needs_of_the_counterpart_are_needs_of_the_resampler() -> None:
    assert moved(counterpart="cdpruner").query_aware and moved(counterpart="attention").needs_attention
    assert not moved().query_aware and not moved().needs_attention


def test_time_and_place_are_used() -> None:
    compressor, clip = moved(), video()
    later = VideoTokens.from_grid(clip.as_grid(), times=torch.linspace(0, 100, 12))
    assert not torch.allclose(compressor(clip).tokens.features, compressor(later).tokens.features, atol=1e-3)


def test_the_change_scales_with_the_features() -> None:
    for setting in SETTINGS:
        compressor, clip = moved(**setting), video()
        large = VideoTokens.from_grid(1000 * clip.as_grid(), times=clip.times)
        one, two = compressor(clip, words()).tokens.features, compressor(large, words()).tokens.features
        torch.testing.assert_close(two, 1000 * one, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("setting", [*SETTINGS, {"rebuild": 0.1}, {"rebuild": 0.1, "inner": 8}])
def test_every_parameter_has_a_gradient_within_two_steps(setting: dict[str, Any]) -> None:
    check_gradients_within_two_steps(framefold.build("resampler", 0.2, dim=WIDTH, **setting), video(), words())


def test_the_loss_rebuild_falls_without_labels() -> None:
    for inner in (None, 8):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            compressor = framefold.build("resampler", 0.1, dim=WIDTH, inner=inner, rebuild=0.5)
        optimizer, losses = torch.optim.AdamW(compressor.parameters(), lr=3e-3), []
        for _ in range(20):
            optimizer.zero_grad()
            (loss,) = compressor(video()).losses.values()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0], (inner, losses)
        assert compressor.eval()(video()).losses == {}
        assert compressor.resampler.when.weight.grad.any()  # it trains the tokens, too, not only the predictor
    assert moved().train()(video()).losses == {} and moved().rebuilder is None


def test_the_loss_rebuild_is_zero_for_perfect_predictions() -> None:
    x = noise(7, WIDTH)
    assert float(rebuild_loss(2 * x, x)) == pytest.approx(0, abs=1e-6)
    assert float(rebuild_loss(-x, x)) == pytest.approx(2, abs=1e-6)


def test_wide_tokens_use_a_bottleneck_and_weights_are_made_on_the_meta_device() -> None:
    for width, setting in itertools.product((3584, 8192), ({}, {"reads": "question"}, {"rebuild": 0.1})):
        compressor = framefold.build("resampler", counterpart="pool", **setting)
        with torch.device("meta"):
            compressor.materialize(width, (14, 14))
        count = sum(p.numel() for p in compressor.parameters())
        asks, rebuild = (key in setting for key in ("reads", "rebuild"))
        least = (2 + 2 * rebuild) * width * 512 + (12 + 12 * asks + 12 * rebuild) * 512**2
        assert least < count < 1.05 * least, (width, setting, count / least)
        assert compressor.params()["inner"] == 512


def test_gradients_are_those_of_the_function() -> None:
    """With padded windows, a question and layers that lead to a width and back, by finite differences."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for inner in (4, 8):
            module = AnchoredResampler(8, inner, 1, 2, 3, 2, asks=True).double()
            for parameter in module.parameters():
                parameter.data += 0.3 * torch.randn_like(parameter)
            window = torch.tensor([0, 0, 0, 1])
            sizes = ((4, 8), (2, 5, 8), (4, 3), (2, 5, 2))
            inputs = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]
            question = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)

            def call(*given: Tensor, module: Any = module, window: Tensor = window) -> Tensor:
                return module(*given[:4], window, given[4])

            assert torch.autograd.gradcheck(call, (*inputs, question))


def test_times_count_from_the_first_step_on() -> None:
    """The encodings of times start at zero, so that a first step at a large rate moves tokens by their contents."""
    fresh = framefold.build("resampler", dim=WIDTH).resampler
    assert not fresh.when.weight.any() and not fresh.place.weight.any()


def test_the_number_of_parameters_does_not_depend_on_the_budget() -> None:
    count = {sum(p.numel() for p in moved(budget).parameters()) for budget in (1, 0.1, 1.0)}
    assert len(count) == 1


def test_attention_is_never_stored_for_all_pairs() -> None:
    """The largest tensor of a forward and backward pass is far smaller than k x N, also with padded windows."""
    clip, largest = video(64, 8, 8, WIDTH), 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(one, Tensor):
                    largest = max(largest, one.numel())
            return out

    for memory in ("video", "frame"):
        compressor = framefold.build("resampler", 512, counterpart="uniform", memory=memory, dim=WIDTH, heads=4)
        with Sizes():
            compressor(clip).tokens.features.square().sum().backward()
        assert 0 < largest < 512 * 4096 / 8, (memory, largest)


def test_operations_are_those_of_the_blocks() -> None:
    """The k queries and N keys pass through 12 D^2 weights a block, and attention counts 4 k N D."""
    n, k, width = 144, 29, 64
    compressor, clip = framefold.build("resampler", k, counterpart="uniform", dim=width), video(width=width)
    found = count_flops(lambda: compressor(clip))
    block = 2 * width**2 * (k * (1 + 1 + 8) + n * 2) + 4 * k * n * width
    assert block <= found < 1.25 * block  # the rest is the encoding of time


def test_what_cannot_be_a_counterpart_is_refused() -> None:
    for name in ("storm", "resampler", "identity", "fastv", "uniform+pool", "storm+pool"):
        with case(name), pytest.raises(ConfigError, match="counterpart must be one training-free"):
            framefold.build("resampler", counterpart=name)
    with pytest.raises(UnknownCompressorError, match="medoids"):
        framefold.build("resampler", counterpart="medoid")
    with pytest.raises(ConfigError, match="no parameter 'spatail'"):
        framefold.build("resampler", counterpart="pool", counterpart_params={"spatail": 2})


def test_parameters_out_of_range_are_refused() -> None:
    wrong = {"memory": "scene", "reads": "answer", "layers": 0, "inner": 0, "heads": 0, "rebuild": -1.0, "dim": 2**40}
    for name, value in [*wrong.items(), ("segment_frames", 0), ("rebuild", 1e300)]:
        with case(name, value), pytest.raises(ConfigError, match=name):
            framefold.build("resampler", **{name: value})
    with pytest.raises(ConfigError, match="divisible"):
        framefold.build("resampler", dim=16, heads=3)
    with pytest.raises(InputError, match="width 16"):
        moved()(video(width=8))


def test_the_counterpart_of_given_parameters() -> None:
    cls = registry.compressor_class("resampler")
    assert cls.counterpart_of({}) == ("scene_mean", {})
    given = {"counterpart": "pool", "counterpart_params": {"spatial": 4}, "layers": 2}
    assert cls.counterpart_of(given) == ("pool", {"spatial": 4})
    chain = framefold.build("uniform+resampler", 0.1, resampler=given)
    assert chain.counterpart == "uniform+pool" and cls.counterpart == "scene_mean"
    assert type(chain).counterpart_of({"resampler": given})[1] == {"uniform": {}, "pool": {"spatial": 4}}


def test_a_saved_resampler_is_loaded_with_its_counterpart(tmp_path: Any) -> None:
    compressor = moved(counterpart="pool", counterpart_params={"spatial": 2}, reads="question")
    compressor.save_pretrained(tmp_path / "adapter")
    again = framefold.load(tmp_path / "adapter")
    assert again.params() == compressor.params() and again.counterpart == "pool" and again.query_aware
    assert same(again.eval()(video(), words()).tokens, compressor(video(), words()).tokens)


def test_extreme_scales_are_no_obstacle() -> None:
    for scale in (1e-30, 1e30):
        out = moved()(VideoTokens.from_grid(features((6, 3, 4)) * scale)).tokens.features
        assert torch.isfinite(out).all() and out.abs().amax() > 0.1 * scale
