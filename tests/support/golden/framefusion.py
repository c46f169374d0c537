"""Golden file of FrameFusion: merging and pruning steps of the released code, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.ops.links import tree_groups
from framefold.adapters.reference.framefusion import FusionState, fusion_step, place_similarities
from framefold.adapters.reference.st_simdiff import drop_ratio
from framefold.errors import BudgetError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4
LAYERS = 28
TIE = 1e-6


def check(data: Any) -> None:
    """Check ratios, runs, similarities, positions and states; only lengths where similarities are tied."""
    for name, params, arrays in golden_cases(data):
        if "error" in params:  # the release fails, and there is nothing to compare
            continue
        with case(name):
            if "table" in arrays:
                _check_ratios(arrays["table"], params)
            elif "mask" in arrays:
                _check_runs(arrays["mask"], arrays["out"])
            else:
                _check_layers(arrays, params)


def _check_ratios(table: np.ndarray, params: dict[str, Any]) -> None:
    layers = params.get("num_layers", LAYERS)
    for i, dropped in enumerate(params["lists"]):
        for j, cost in enumerate(params["costs"]):
            if np.isfinite(table[i, j]):
                np.testing.assert_allclose(drop_ratio(dropped, cost, layers), table[i, j], atol=1e-6)
                continue
            with pytest.raises(BudgetError):
                drop_ratio(dropped, cost, layers)


def _check_runs(masks: np.ndarray, lengths: np.ndarray) -> None:
    """The release writes the length of each run of merged tokens at its last token."""
    for mask, expected in zip(torch.from_numpy(masks).bool(), lengths, strict=True):
        padded = torch.cat([mask.new_zeros(1), mask])  # in front, the token that a run at the start joins
        groups = tree_groups(torch.where(padded, torch.arange(len(padded)) - 1, -1))
        is_last = torch.cat([groups[1:] != groups[:-1], mask.new_ones(1)])
        found = torch.where(padded & is_last, torch.bincount(groups)[groups] - 1, 0)
        np.testing.assert_array_equal(found[1:], expected)


def _check_layers(arrays: dict[str, Any], params: dict[str, Any]) -> None:
    hidden, places = torch.from_numpy(arrays["hidden"])[0], torch.from_numpy(arrays["patch_type"])[0]
    order, similarity = place_similarities(hidden, places)
    np.testing.assert_array_equal(order, arrays["token_index_by_patch"][0])
    np.testing.assert_allclose(similarity, arrays["similarity_by_patch"][0], atol=1e-5)
    settings = (params["cost"], params["similarity_lower_bound"], params["ratio_lower_bound"])
    tied = _is_tied(similarity, len(places) - params["trace"][0]["length"])
    _check_official(hidden, places, arrays, params, tied)
    state, positions = FusionState(), torch.arange(len(places))
    for step in params["trace"]:
        layer = step["layer"]
        attention = torch.from_numpy(arrays[f"attention_l{layer}"]) if f"attention_l{layer}" in arrays else None
        hidden, kept, state = fusion_step(hidden, places, attention, state, *settings)
        positions, places = positions[kept], places[kept]
        assert len(positions) == step["length"], layer
        assert (state.merged, state.pruned) == (step["finish_merging"], step["finish_pruning"]), layer
        np.testing.assert_allclose(state.dropped, step["sparsity_list"], atol=1e-12)
        if not tied:
            np.testing.assert_array_equal(positions, arrays[f"positions_l{layer}"])
            np.testing.assert_allclose(hidden, arrays[f"hidden_l{layer}"][0], atol=ATOL)


def _is_tied(similarity: torch.Tensor, merged: int) -> bool:
    """Whether rounding decides which tokens the first layer merges."""
    highest = similarity.sort(descending=True).values
    return 0 < merged < len(highest) and float(highest[merged - 1] - highest[merged]) < TIE


def _check_official(
    hidden: torch.Tensor, places: torch.Tensor, arrays: dict[str, Any], params: dict[str, Any], tied: bool
) -> None:
    """The first layer is what the compressor gives; if enough is similar, the exact rule merges the same runs."""
    visual = places != -1
    per_frame = int(places.max()) + 1
    if not torch.equal(places[visual], torch.arange(int(visual.sum())) % per_frame):
        return  # ignored tokens are not part of a video
    first, cost = int(visual.nonzero()[0]), float(params["cost"])
    video = VideoTokens.from_grid(hidden[visual].reshape(-1, 1, per_frame, hidden.shape[1]))
    ours = framefold.build("framefusion", cost, variant="official", tau=params["similarity_lower_bound"])(video)
    text = len(places) - len(video)
    assert len(ours.tokens) == params["trace"][0]["length"] - text
    if tied:
        return
    theirs = slice(first, first + len(ours.tokens))
    np.testing.assert_array_equal(ours.tokens.index + first, arrays["positions_l0"][theirs])
    np.testing.assert_allclose(ours.tokens.features, arrays["hidden_l0"][0, theirs], atol=ATOL)
    if len(ours.tokens) == cost * len(video):
        exact = framefold.build("framefusion", cost)(video).tokens
        np.testing.assert_array_equal(exact.assign[ours.tokens.index].sort().values, torch.arange(len(exact)))
        np.testing.assert_allclose(exact.features[exact.assign], ours.tokens.features[ours.tokens.assign], atol=ATOL)
