"""Golden files of ST-SimDiff: outputs of the released code."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.st_simdiff import STSimDiff
from framefold.adapters.ops.similarity import neighbour_similarities
from framefold.adapters.reference.st_simdiff import stage_2
from framefold.errors import BudgetError

TIE = 1e-6  # smaller margins are within the rounding error


def check(data: Any) -> None:
    """Check similarities, components, events and both stages; only counts where rounding decides."""
    params = json.loads(str(data["params"]))
    x = torch.from_numpy(data["features"])
    sim = neighbour_similarities(x)
    np.testing.assert_allclose(sim.temporal[1:], data["temporal_sim"][1:], atol=2e-6)
    np.testing.assert_allclose(sim.right[:, :, :-1], data["right_sim"][:, :, :-1], atol=2e-6)
    np.testing.assert_allclose(sim.bottom[:, :-1], data["bottom_sim"][:, :-1], atol=2e-6)
    compressor = framefold.build(
        "st_simdiff",
        float(params["cost"]),
        variant="official",
        tau_sim=params["tau_sim"],
        tau_event=params["tau_event"],
        strategy=params["strategy"],
        temporal=params["temporal"],
        spatial=params["spatial"],
        right=params["right"],
        bottom=params["bottom"],
    )
    assert isinstance(compressor, STSimDiff)
    video = VideoTokens.from_grid(x)
    graph = compressor.graph(video)
    events = data["temporal_sim"].reshape(-1) < params["tau_event"]
    events[: video.per_frame] = False  # frame 0 has no predecessor
    np.testing.assert_array_equal(graph.turning.numpy(), events)
    _check_components(graph.labels, params, data)
    _check_stages(compressor, video, params, data)


def _check_components(labels: torch.Tensor, params: dict[str, Any], data: Any) -> None:
    if "component_id" not in data:
        return
    component = data["component_id"][params["n_pre"] :][: len(labels)]  # text comes before and after
    alone = torch.bincount(labels)[labels] == 1
    np.testing.assert_array_equal(alone.numpy(), component < 0)
    _, ours = np.unique(labels[~alone], return_inverse=True)
    _, theirs = np.unique(component[component >= 0], return_inverse=True)
    np.testing.assert_array_equal(_by_first(ours), _by_first(theirs))


def _by_first(labels: np.ndarray) -> np.ndarray:
    """Labels numbered in the order of their first occurrence."""
    names, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse] if len(names) else labels


def _check_stages(compressor: STSimDiff, video: VideoTokens, params: dict[str, Any], data: Any) -> None:
    if "error_stage1" in params:  # the release fails at a cost of one, where ours keeps everything
        assert len(compressor(video).tokens) == len(video)
        return
    kept, dropped = compressor.official_stage_1(video, params["cost"])
    assert torch.equal(compressor(video).tokens.index, kept.nonzero()[:, 0])
    np.testing.assert_allclose(dropped, data["sparsity_list"], atol=1e-12)
    length, first = int(data["L"]), params["n_pre"]
    everything = torch.ones(length, dtype=torch.bool)
    everything[first : first + len(video)] = kept
    positions = everything.nonzero()[:, 0]
    assert len(positions) == len(data["kept_stage1"])
    tied = _tied(params)
    if not tied:
        np.testing.assert_array_equal(positions, data["kept_stage1"])
    is_video = (positions >= first) & (positions < first + len(video))
    attention = torch.from_numpy(data["attn"])[:, positions]
    if "error_stage2" in params:
        with pytest.raises(BudgetError, match="too small"):
            stage_2(attention, is_video, params["cost"], dropped)
        return
    second = positions[stage_2(attention, is_video, params["cost"], dropped)]
    assert len(second) == len(data["kept_stage2"])
    inside = _second_stage(compressor, video, params["cost"], attention[:, is_video])
    assert torch.equal(positions[is_video][inside], second[(second >= first) & (second < first + len(video))])
    if not tied:
        np.testing.assert_array_equal(second, data["kept_stage2"])


def _second_stage(compressor: STSimDiff, video: VideoTokens, cost: float, attention: torch.Tensor) -> torch.Tensor:
    """Return the rows that the stage in the language model keeps of the tokens that enter it."""
    both = framefold.build("st_simdiff", float(cost), **compressor.params() | {"stage_2": True})
    assert both.in_llm is not None
    out = both(video)
    memory = both.in_llm.begin(out.tokens, 28, out.handover)
    return both.in_llm.decide(out.tokens, attention.float().mean(0), 1, 0, memory).rows


def _tied(params: dict[str, Any]) -> bool:
    """Whether rounding decides somewhere in the release."""
    margins = params.get("margins") or {}
    return any(isinstance(gap, (int, float)) and gap < TIE for gap in margins.values())
