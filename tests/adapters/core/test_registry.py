"""Registering compressors of other packages, and building them by name or class path."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.base.selector import Selector
from framefold.adapters.core import registry
from framefold.errors import ConfigError, InputError, UnknownCompressorError
from tests.support.cases import case


@pytest.fixture
def clean_registry():
    """Remove what a test registered."""
    before = dict(registry._CLASSES)
    yield registry._CLASSES
    registry._CLASSES.clear()
    registry._CLASSES.update(before)


def video() -> VideoTokens:
    return VideoTokens.from_grid(torch.randn(4, 2, 3, 8, generator=torch.Generator().manual_seed(0)))


def test_a_selector_needs_only_a_score(clean_registry, tmp_path) -> None:
    class SmallNorm(Selector):
        """Keeps the tokens of smallest norm."""

        name = "small_norm_of_a_test"

        def __init__(self, budget: float | int = 0.25, *, power: float = 2.0) -> None:
            super().__init__(budget)
            self.power = power

        def score(self, video: VideoTokens, query: torch.Tensor | None) -> torch.Tensor:
            return -video.features.norm(p=self.power, dim=-1)

    assert "small_norm_of_a_test" in framefold.list_compressors(trainable=False)
    out = framefold.build("small_norm_of_a_test", 6, power=1)(video()).tokens
    norms = video().features.abs().sum(-1)
    assert out.index.tolist() == sorted(norms.sort().indices[:6].tolist())
    framefold.build("small_norm_of_a_test", 6, power=3).save_pretrained(tmp_path)
    assert framefold.load(tmp_path).params() == {"power": 3.0}
    with pytest.raises(ConfigError, match="power must be float"):
        framefold.build("small_norm_of_a_test", power="high")
    for value in ("inf", "-inf", "nan"):
        with pytest.raises(ConfigError, match=f"power must be a finite number, got {value}"):
            framefold.build("small_norm_of_a_test", power=float(value))
    with pytest.raises(UnknownCompressorError, match="did you mean 'small_norm_of_a_test'"):
        framefold.build("small_norm_of_a_tset")


def test_a_query_aware_method_requires_its_query(clean_registry) -> None:
    class Alike(Selector):
        """Keeps the tokens most similar to the question."""

        name = "alike_of_a_test"
        query_aware = True

        def score(self, video: VideoTokens, query: torch.Tensor | None) -> torch.Tensor:
            assert query is not None
            return (video.features @ query.T).amax(-1)

    compressor = framefold.build("alike_of_a_test", 1)
    query = 10 * video().features[7:8]
    assert compressor(video(), query).tokens.index.tolist() == [7]
    with pytest.raises(InputError, match="query-aware"):
        compressor(video())


def test_zero_times_parameters_gives_unused_parameters_zero_gradients(clean_registry) -> None:
    class Branching(Selector):
        name = "branching_of_a_test"
        trainable = True

        def __init__(self, budget: float | int = 0.25) -> None:
            super().__init__(budget)
            self.unused, self.frozen = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8).requires_grad_(False)

        def compress(self, video: VideoTokens, k: int, query: torch.Tensor | None) -> VideoTokens:
            out = video.keep(torch.arange(k))
            return replace(out, features=out.features + self.zero_times_parameters())

    compressor = framefold.build("branching_of_a_test", 3)
    out = compressor(video()).tokens.features
    assert torch.equal(out, video().features[:3])
    out.sum().backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in compressor.unused.parameters())
    assert all(p.grad is None for p in compressor.frozen.parameters())


def test_an_unfinished_method_names_what_to_implement(clean_registry) -> None:
    class Unfinished(Compressor):
        name = "unfinished_of_a_test"

    with pytest.raises(NotImplementedError, match=r"Unfinished must implement compress\(\)"):
        Unfinished()(video())


def test_two_methods_of_one_name_are_refused(clean_registry) -> None:
    with pytest.raises(ConfigError, match="two compressors are called 'uniform'"):
        type("Uniform2", (Selector,), {"name": "uniform"})


def test_building_from_a_class_path(clean_registry, monkeypatch) -> None:
    module = ModuleType("plugin_module")
    monkeypatch.setitem(sys.modules, "plugin_module", module)
    module.Custom = type("Custom", (Selector,), {"name": "custom_of_a_test", "__module__": "plugin_module"})  # type: ignore[attr-defined]
    assert isinstance(framefold.build("plugin_module.Custom", 3), module.Custom)
    for path in ("no_such_module.Thing", "plugin_module.NoSuchThing", "pathlib.Path"):
        with pytest.raises(UnknownCompressorError, match="cannot import|not a subclass"):
            framefold.build(path)


class _Entry:
    value = "somewhere:Thing"

    def __init__(self, name: str, error: Exception | None) -> None:
        self.name, self.error = name, error

    def load(self) -> None:
        if self.error:
            raise self.error
        type("FromEntryPoint", (Selector,), {"name": "entry_of_a_test"})


def test_entry_points_are_loaded_and_broken_ones_are_skipped(clean_registry, monkeypatch) -> None:
    entries = [_Entry("bad", RuntimeError("boom")), _Entry("good", None)]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries if group == "framefold.compressors" else [])
    registry._load_plugins.cache_clear()
    with pytest.warns(UserWarning, match="plug-in 'bad' .*boom"):
        assert "entry_of_a_test" in framefold.list_compressors()
    monkeypatch.undo()  # so that later tests find no broken plug-in
    registry._load_plugins.cache_clear()
    framefold.list_compressors()


def test_these_tests_leave_nothing_registered() -> None:
    assert not [name for name in framefold.list_compressors() if name.endswith("_of_a_test")]


def test_invalid_names_are_refused_in_short_messages() -> None:
    for name in (3, None, ".", ".x", "..adapters.X", "os.", "", "x" * 10_000):
        with case(str(name)[:20]):
            with pytest.raises(UnknownCompressorError) as caught:
                framefold.build(name)  # type: ignore[arg-type]
            assert len(str(caught.value)) < 200 + len(", ".join(framefold.list_compressors()))


def test_numpy_numbers_are_accepted_and_converted(tmp_path) -> None:
    budgets = [(np.int64(5), 5), (np.float64(0.25), 0.25), (np.float32(0.5), 0.5), (np.uint8(7), 7)]
    for budget, plain in budgets:
        with case(repr(budget)):
            compressor = framefold.build("uniform", budget)
            assert compressor.budget == plain and type(compressor.budget) is type(plain)
            compressor.save_pretrained(tmp_path)
            assert framefold.load(tmp_path).budget == plain
    assert framefold.build("pool", 3, spatial=np.int64(2)).params() == {"spatial": 2}
    for wrong in (np.float64(2), np.bool_(True), True):
        with case(repr(wrong)), pytest.raises(ConfigError, match="spatial must be int"):
            framefold.build("pool", 3, spatial=wrong)
