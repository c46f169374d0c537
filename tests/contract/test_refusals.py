"""Inputs that every compressor refuses, and invalid results of a compressor that the base class detects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.core import registry
from framefold.errors import BudgetError, ConfigError, ContractError, InputError, UnknownCompressorError
from tests.support.cases import case
from tests.support.contract import (
    WIDTH,
    features,
    make,
    question,
    run,
    wrap,
)
from tests.support.videos import noise

GRID = (6, 3, 4)


@pytest.mark.parametrize("name", framefold.list_compressors())
def test_invalid_inputs_are_refused(name: str) -> None:
    compressor, x = make(name), features(GRID)
    query = question(compressor)
    for value in (float("nan"), float("inf"), -float("inf")):
        poisoned = x.clone()
        poisoned[2, 1, 1, 3] = value
        with pytest.raises(InputError, match="NaN or infinite"):
            compressor(wrap(poisoned), query)
    with pytest.raises(InputError, match="VideoTokens"):
        compressor(x, query)
    with pytest.raises(InputError, match="dense"):
        compressor(wrap(x).keep(torch.tensor([0, 5])), query)
    with pytest.raises(ConfigError, match="no parameter 'no_such_thing'"):
        framefold.build(name, no_such_thing=1)
    for budget in (0, -1, 0.0, 1.0001, -0.5, float("nan"), float("inf"), True, None, "0.5"):
        with pytest.raises(BudgetError):
            framefold.build(name, budget)  # type: ignore[arg-type]
    with pytest.raises(BudgetError):
        compressor.budget = 2.0
    assert compressor.budget == 0.25


@pytest.mark.parametrize("name", framefold.list_compressors())
def test_declared_needs_are_required_and_nothing_else_is_used(name: str) -> None:
    compressor, x = make(name), features(GRID)
    if compressor.needs_query:
        with pytest.raises(InputError, match="query"):
            compressor(wrap(x))
        for wrong in (noise(WIDTH), noise(0, WIDTH), noise(5, WIDTH + 1), torch.full((2, WIDTH), torch.nan)):
            with pytest.raises(InputError, match="query"):
                compressor(wrap(x), wrong)
    if compressor.needs_attention:
        with pytest.raises(InputError, match="attention"):
            compressor(VideoTokens.from_grid(x), question(compressor))
    else:
        bare = VideoTokens.from_grid(x, times=wrap(x).times)
        bare, full = (compressor(video, question(compressor)).tokens for video in (bare, wrap(x)))
        assert torch.equal(bare.features, full.features) and torch.equal(bare.index, full.index)


def test_a_query_must_be_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = framefold.build("uniform")
    monkeypatch.setattr(compressor, "query_aware", True)
    for query in ("what colour?", None, torch.ones(2, WIDTH, dtype=torch.long)):
        with pytest.raises(InputError, match="query"):
            compressor(wrap(features(GRID)), query)  # type: ignore[arg-type]


def test_misspelt_names_are_answered_with_the_most_similar_ones() -> None:
    with pytest.raises(UnknownCompressorError, match="did you mean .*'st_simdiff'"):
        framefold.build("st_simdif")
    with pytest.raises(UnknownCompressorError, match="known: "):
        framefold.build("qqqqqq")
    with pytest.raises(ConfigError, match="did you mean 'tau_sim'"):
        framefold.build("st_simdiff", tau_simm=0.5)


@pytest.fixture
def broken() -> Iterator[Any]:
    """A compressor that violates the contract in the way that its attribute ``fault`` names."""

    class Broken(Compressor):
        name = "broken_on_purpose"
        fault = ""

        def compress(self, video: VideoTokens, k: int, query: torch.Tensor | None) -> VideoTokens:
            out = video.keep(torch.arange(k + (self.fault == "count")))
            if self.fault == "dtype":
                out = out.to(torch.float64)
            if self.fault == "lengths":
                object.__setattr__(out, "size", out.size[:-1])
            if self.fault == "assign":
                object.__setattr__(out, "assign", out.assign[:-1])
            if self.fault == "order":
                object.__setattr__(out, "index", out.index.flip(0))
            return out

    yield Broken(budget=5)
    del registry._CLASSES["broken_on_purpose"]


def test_invalid_results_are_detected(broken: Any) -> None:
    assert len(run(broken, features(GRID))) == 5
    for fault in ("count", "dtype", "lengths", "assign", "order"):
        with case(fault):
            broken.fault = fault
            with pytest.raises(ContractError, match="broken_on_purpose"):
                run(broken, features(GRID))
