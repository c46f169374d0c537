"""What every compressor refuses and with which error; what the base class catches in a broken compressor."""

from __future__ import annotations

import pytest
import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.core import registry
from framefold.errors import BudgetError, ConfigError, ContractError, InputError, UnknownCompressorError

WIDTH = 16
each = pytest.mark.parametrize("name", framefold.list_compressors())


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features() -> torch.Tensor:
    return noise(6, 3, 4, WIDTH)


def wrap(x: torch.Tensor) -> VideoTokens:
    return VideoTokens.from_grid(x, attention=torch.linspace(0, 1, x.shape[:3].numel()))


def make(name: str, budget: float | int = 0.25) -> Compressor:
    compressor = framefold.build(name, budget)
    compressor.materialize(WIDTH, (3, 4))
    return compressor.eval()


def question(compressor: Compressor) -> torch.Tensor | None:
    return noise(5, WIDTH, seed=9) if compressor.query_aware else None


@each
def test_bad_videos_are_refused(name: str) -> None:
    compressor = make(name)
    query = question(compressor)
    for poison in (float("nan"), float("inf"), -float("inf")):
        x = features()
        x[2, 1, 1, 3] = poison
        with pytest.raises(InputError, match="NaN or infinite"):
            compressor(wrap(x), query)
    with pytest.raises(InputError, match="VideoTokens"):
        compressor(features(), query)
    with pytest.raises(InputError, match="dense"):
        compressor(wrap(features()).keep(torch.tensor([0, 5])), query)


@each
def test_budgets_out_of_range_are_refused(name: str) -> None:
    for budget in (0, -1, 0.0, 1.0001, -0.5, float("nan"), float("inf"), True, None, "0.5"):
        with pytest.raises(BudgetError):
            framefold.build(name, budget)  # type: ignore[arg-type]
    compressor = make(name, 0.5)
    with pytest.raises(BudgetError):
        compressor.budget = 2.0
    assert compressor.budget == 0.5


@each
def test_unknown_parameters_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no parameter 'no_such_thing'"):
        framefold.build(name, no_such_thing=1)


@each
def test_what_a_method_declares_it_needs_is_demanded(name: str) -> None:
    compressor, x = make(name), features()
    if compressor.query_aware:
        with pytest.raises(InputError, match="query"):
            compressor(wrap(x))
        for wrong in (noise(WIDTH), noise(0, WIDTH), noise(5, WIDTH + 1), torch.full((2, WIDTH), torch.nan)):
            with pytest.raises(InputError, match="query"):
                compressor(wrap(x), wrong)
    if compressor.needs_attention:
        with pytest.raises(InputError, match="attention"):
            compressor(VideoTokens.from_grid(x), question(compressor))
    else:
        bare, full = (compressor(video, question(compressor)).tokens for video in (VideoTokens.from_grid(x), wrap(x)))
        assert torch.equal(bare.features, full.features) and torch.equal(bare.index, full.index)


@pytest.mark.parametrize(
    "shape, message",
    [((12, 16), r"\(T, H, W, D\)"), ((2, 3, 12, 16, 1), r"\(T, H, W, D\)"), ((0, 3, 4, 16), "empty")],
)
def test_videos_of_a_wrong_shape(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VideoTokens.from_grid(torch.zeros(shape))


def test_videos_of_a_wrong_type_or_with_wrong_companions() -> None:
    x = features()
    with pytest.raises(InputError, match="floating"):
        VideoTokens.from_grid(x.long())
    with pytest.raises(InputError, match="times"):
        VideoTokens.from_grid(x, times=torch.zeros(5))
    with pytest.raises(InputError, match="ascending"):
        VideoTokens.from_grid(x, times=torch.arange(6).flip(0))
    with pytest.raises(InputError, match="attention"):
        VideoTokens.from_grid(x, attention=torch.zeros(5))
    with pytest.raises(InputError, match="dense|grid"):
        VideoTokens.from_grid(x).keep(torch.tensor([3])).as_grid()


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(UnknownCompressorError, match="did you mean .*'st_simdiff'"):
        framefold.build("st_simdif")
    with pytest.raises(UnknownCompressorError, match="known: "):
        framefold.build("qqqqqq")
    with pytest.raises(ConfigError, match="did you mean 'tau_sim'"):
        framefold.build("st_simdiff", tau_simm=0.5)


@pytest.fixture
def broken():
    """A compressor that breaks its promises in the way that its attribute says."""

    class Broken(Compressor):
        name = "broken_on_purpose"
        fault = ""

        def compress(self, video: VideoTokens, k: int, query: torch.Tensor | None) -> VideoTokens:
            out = video.keep(torch.arange(k + (self.fault == "count")))
            if self.fault == "dtype":
                out = out.to(torch.float64)
            if self.fault == "lengths":
                object.__setattr__(out, "size", out.size[:-1])
            if self.fault == "order":
                object.__setattr__(out, "index", out.index.flip(0))
            return out

    yield Broken(budget=5)
    del registry._CLASSES["broken_on_purpose"]


def test_broken_promises_are_caught(broken) -> None:
    video = wrap(features())
    assert len(broken(video).tokens) == 5
    for fault in ("count", "dtype", "lengths", "order"):
        broken.fault = fault
        with pytest.raises(ContractError, match="broken_on_purpose"):
            broken(video)
