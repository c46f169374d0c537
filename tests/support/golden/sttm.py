"""Golden files of STTM: outputs of the authors' released code."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold.adapters.base.in_llm import apply_decision
from framefold.adapters.reference.sttm import ReleasedMerge, merge_as_released
from framefold.errors import InputError

ATOL = 2e-6
TIE = 1e-6  # a smaller distance to a threshold is within the rounding error


def check(data: Any) -> None:
    """Check indices, boxes, pairs and representatives exactly, and features within ``ATOL``.

    If a similarity is equal to a threshold within the rounding error, check only that sizes add up.
    """
    params = json.loads(str(data["params"]))
    x = torch.from_numpy(np.asarray(data["features"]))
    names = ("tau_s", "tau_t", "root_level", "weighted_avg", "slow_ver", "head_dim")
    settings = {name: params[name] for name in names if name in params}
    if "error" in params:
        with pytest.raises(InputError, match="sttm"):
            merge_as_released(x, **settings)
        return
    merged, weighted = merge_as_released(x, **settings), bool(params.get("weighted_avg"))
    margins = [m for m in params.get("margins", {}).values() if m is not None]
    if min(margins, default=1.0) < TIE:
        assert int(torch.bincount(merged.rows.reshape(-1)).sum()) == x.shape[:3].numel()
        return
    found = {**_spatial(merged, x, weighted), **_final(merged, x, weighted)}
    if not any(map(params.get, names[3:])):
        _check_at_layer(data, x, {name: params[name] for name in names[:3]})
    for name in ("pos_cos", "pos_sin"):
        if f"{name}_in" in data:
            values = torch.from_numpy(np.asarray(data[f"{name}_in"])).flatten(1, 2)
            found[f"{name}_out"] = merged.final(values, bool(params.get("pos_emb_weighted_avg")))
    for name, values in found.items():
        if name not in data:
            continue
        if values.is_floating_point():
            np.testing.assert_allclose(values.numpy(), data[name], rtol=0, atol=ATOL, err_msg=name)
        else:
            np.testing.assert_array_equal(values.numpy(), data[name], err_msg=name)


def _check_at_layer(data: Any, x: torch.Tensor, thresholds: dict[str, Any]) -> None:
    """Check that the stage in the language model merges states as the release does."""
    stage = framefold.build("at_layer", variant="official", rule_params=thresholds).in_llm
    assert stage is not None
    states = framefold.VideoTokens.from_grid(x)
    tokens = apply_decision(states, stage.decide(states, None, 2, 1, None))
    np.testing.assert_allclose(tokens.features.numpy(), data["features_out"], rtol=0, atol=ATOL)
    np.testing.assert_array_equal(tokens.index.numpy(), data["top_left_1d"])
    np.testing.assert_array_equal(tokens.size.numpy(), data["num_patch"])


def _spatial(merged: ReleasedMerge, x: torch.Tensor, weighted: bool) -> dict[str, torch.Tensor]:
    return {
        "spatial_features": merged.spatial(x.flatten(1, 2), weighted),
        "spatial_tlbr": _boxes(merged),
        "spatial_num_patch": torch.bincount(merged.node.reshape(-1)),
        "pairs": merged.pairs,
        "pairs_merged": merged.linked,
        "representative": merged.representative,
    }


def _final(merged: ReleasedMerge, x: torch.Tensor, weighted: bool) -> dict[str, torch.Tensor]:
    kept = merged.representative.unique()
    return {
        "features_out": merged.final(x.flatten(1, 2), weighted),
        "tlbr": _boxes(merged)[kept],
        "num_patch": torch.bincount(merged.rows.reshape(-1)),
        "top_left_1d": merged.corner[kept],
    }


def _boxes(merged: ReleasedMerge) -> torch.Tensor:
    """(M, 5) frame and box of each node."""
    frame, place = merged.corner // merged.node.shape[1], merged.corner % merged.node.shape[1]
    return torch.cat([frame[:, None], merged.cells.box[merged.cell[frame, place]]], dim=1)
