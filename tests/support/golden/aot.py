"""Golden files of AOT: transport plans, merging in and between frames, and the whole reduction of the released code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from framefold.adapters.reference import aot
from tests.support.cases import case
from tests.support.golden_cases import golden_cases
from tests.support.paths import ASSETS

ATOL = 1e-4
LOOSE = 1e-3  # of results of many iterations


def check(data: Any) -> None:
    """Check one file; the arrays of a case tell what it is about."""
    for name, params, arrays in golden_cases(data):
        if "error" in params:  # the release fails, and there is nothing to compare
            continue
        tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
        with case(name):
            if "cost" in tensors:
                _check_plans(tensors["cost"], tensors["plan"], params)
            elif "attn_deep" in tensors:
                _check_whole(tensors, params, tensors["features"] if "features" in tensors else _shared(data))
            elif "anchor_mask" in tensors:
                side = math.isqrt(tensors["features"].shape[1])
                x, mask = (tensors[key].unflatten(1, (side, side)) for key in ("features", "anchor_mask"))
                close(aot.merge_in_frame(x, mask).flatten(1, 2), tensors["out_features"])
            elif "token_mask" in tensors:
                lengths, keep = params["segment_sizes"], params["keep_ratio"]
                out = aot.merge_clips(tensors["features"], tensors["token_mask"], lengths, keep, _transport(params))
                close(out, tensors["out_tokens"], LOOSE)
            else:
                _check_step(tensors, params)


def _shared(data: Any) -> Tensor:
    """The features of another case of the file, or, if there are none, of the file in the repository."""
    found = [data[key] for key in data if key.endswith("__features")]
    if not found:
        with np.load(ASSETS / "golden" / "aot_whole.npz") as other:
            found = [other[key] for key in other if key.endswith("__features")]
    return torch.from_numpy(found[0])


def close(ours: Tensor, theirs: Tensor, atol: float = ATOL) -> None:
    np.testing.assert_allclose(ours, theirs, atol=atol)


def _transport(params: dict[str, Any]) -> aot.ClipTransport:
    names = {"eps": "epsilon", "max_iter": "iterations", "sigma_t": "sigma", "scaling": "scaling"}
    return aot.ClipTransport(**{name: params[key] for key, name in names.items() if key in params})


def _check_plans(cost: Tensor, plan: Tensor, params: dict[str, Any]) -> None:
    """The problems of a batch were solved together, as in the release, or one by one."""
    settings = (params["eps"], params["max_iter"], params["thresh"])
    together = aot.sinkhorn(cost, *settings)
    each = torch.cat([aot.sinkhorn(one[None], *settings) for one in cost])
    np.testing.assert_allclose(aot.sinkhorn(cost, *settings, joint=False), each, atol=ATOL)
    assert min(float((ours - plan).abs().max()) for ours in (together, each)) < ATOL


def _check_step(tensors: dict[str, Tensor], params: dict[str, Any]) -> None:
    anchors, sources = tensors["anchors"][0], tensors["sources"][0]
    merged, kept, plan = aot.merge_frame_into(anchors, sources, params["dt"], params["keep_ratio"], _transport(params))
    close(plan, tensors["plan"][0])
    np.testing.assert_array_equal(kept, tensors["keep_mask"][0])
    close(merged, tensors["out_anchors"][0], LOOSE)


def _check_whole(tensors: dict[str, Tensor], params: dict[str, Any], features: Tensor) -> None:
    """The features of a case without any are those of another one."""
    side = params["grid"]
    x = features.float().unflatten(1, (side, side))
    shallow, deep = (tensors[key].unflatten(1, (side, side)) for key in ("attn_shallow", "attn_deep"))
    mask = aot.window_anchors(shallow, deep, params["visual_token_num"], params["global_ratio"], params["window"])
    np.testing.assert_array_equal(mask.flatten(1), tensors["anchor_mask_27"])
    merged = aot.merge_in_frame(x, mask)
    close(merged[mask].unflatten(0, (len(x), -1)), tensors["anchors_27"])
    pooled, present = (_pool(values, params["pool"]) for values in (merged, mask.float()[..., None]))
    present = present[..., 0] >= 0.5
    np.testing.assert_array_equal(present, tensors["pooled_mask_14"])
    assert present.sum(1).tolist() == params["pooled_kept_per_frame"]
    out = aot.merge_clips(pooled, present, params["segment_sizes"], params["keep_ratio"], _transport(params))
    assert len(out) == params["n_out"]
    close(out, tensors["out_tokens"], LOOSE)


def _pool(grid: Tensor, mode: str) -> Tensor:
    """Halve the sides of a (T, H, W, D) grid as LLaVA-OneVision ("bilinear") or LLaVA-Video (by means) does."""
    channels = grid.movedim(-1, 1)
    side = math.ceil(grid.shape[1] / 2)
    if mode == "bilinear":
        out = functional.interpolate(channels, (side, side), mode="bilinear")
    else:
        out = functional.avg_pool2d(channels, 2)
    return out.flatten(2).mT
