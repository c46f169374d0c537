"""Golden files of FlashVID: the steps of the authors' released code and the whole of it, without noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from framefold import VideoTokens
from framefold.adapters.base.prune_after_layer import PruneToRatio
from framefold.adapters.reference import flashvid as release
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4
TIE = (
    1e-6  # a smaller difference of similarities, or of the distances behind two densities, is within the rounding error
)

Arrays = dict[str, np.ndarray]

PARAMETERS = {
    "token_selection_method": "method",
    "alpha": "alpha",
    "temporal_threshold": "tau",
    "expansion": "expansion",
    "do_segment": "do_segment",
    "segment_threshold": "cut",
    "min_segment_num": "min_segments",
    "complementary_segment": "complementary",
}  # of the whole release


def check(data: Any) -> None:
    """Check every case; its keys tell which step it belongs to.

    The release fails if every token must be left, where framefold's function merges nothing; such cases are only run.
    """
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            if "retention_ratio" in params:
                check_whole(params, arrays)
            elif "token_mask" in arrays:
                check_trees(params, arrays)
            elif "error" in params:
                continue
            elif "num_retained" in params:
                check_selection(params, arrays)
            elif "frame_features" in arrays:
                check_segments(params, arrays)
            elif "center_indices" in arrays:
                check_clusters(params, arrays)
            else:
                check_kept_in_llm(params, arrays)


def check_selection(params: dict[str, Any], arrays: Arrays) -> None:
    rows = release.select_diverse(
        torch.from_numpy(arrays["features"]),
        torch.from_numpy(arrays["cls_attention"]),
        params["num_retained"],
        params["method"],
    )
    assert rows.shape == arrays["out_indices"].shape
    if params.get("stable", True):
        np.testing.assert_array_equal(rows, arrays["out_indices"])


def check_segments(params: dict[str, Any], arrays: Arrays) -> None:
    lengths = release.flashvid_segments(
        torch.from_numpy(arrays["frame_features"]),
        params["segment_threshold"],
        params["min_segment_num"],
        params["complementary_segment"],
    )
    frames = torch.from_numpy(arrays["frame_features"])
    compare_segments(frames, params["segment_threshold"], lengths, arrays["segment_lengths"])


def compare_segments(frames: torch.Tensor, cut: float, ours: list[int], theirs: np.ndarray) -> bool:
    """Compare lengths, and return whether they are the same.

    Where similarities of neighbouring frames are tied, rounding decides which ones are ends. Which ends are repeated,
    so that segments are empty, is always a tie.
    """
    unit = torch.nn.functional.normalize(frames.double(), dim=-1)
    similarity = (unit[1:] * unit[:-1]).sum(-1).sort().values
    found, expected = [length for length in ours if length], theirs[theirs > 0].tolist()
    if bool((similarity - cut).abs().lt(TIE).any()):
        return found == expected
    assert (len(ours), sum(ours)) == (len(theirs), theirs.sum())
    assert bool((similarity.diff() < TIE).any()) or found == expected, (found, expected)
    return found == expected


def check_trees(params: dict[str, Any], arrays: Arrays) -> None:
    features, free = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["token_mask"]).bool()
    merged, parent = release.merge_trees(features, free, params["temporal_threshold"], params["lower_bound"])
    if "error" in params:
        assert bool((parent < 0).all())
        return
    if trees_are_tied(features, free, params["temporal_threshold"], params["lower_bound"]):
        return
    left = free & (parent < 0).reshape(free.shape)
    np.testing.assert_array_equal(left.sum(1), arrays["out_counts"])
    np.testing.assert_array_equal(left.nonzero()[:, 1], arrays["out_indices"])
    np.testing.assert_allclose(merged[left], arrays["out_tokens"], atol=ATOL, rtol=ATOL)
    np.testing.assert_allclose(merged, arrays["features_after_inplace"], atol=ATOL, rtol=ATOL)


def trees_are_tied(features: torch.Tensor, free: torch.Tensor, tau: float, at_least: int) -> bool:
    """Whether rounding decides which tokens are merged."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    both = free[1:, :, None] & free[:-1, None]
    best = (unit[1:] @ unit[:-1].mT).masked_fill(~both, -1).amax(2).flatten()
    spare = free.numel() - at_least
    if int((best > tau).sum()) > spare:
        tau = float(best.sort(descending=True).values[spare - 1])
        return int((best - tau).abs().lt(TIE).sum()) > 1
    return bool((best - tau).abs().lt(TIE).any())


def check_clusters(params: dict[str, Any], arrays: Arrays) -> None:
    """With one neighbour, which is the point itself, all densities are equal; with two, those of nearest pairs."""
    features = torch.from_numpy(arrays["features"])
    valid = torch.from_numpy(arrays["valid_mask"]).bool() if "valid_mask" in arrays else None
    groups, centres = release.cluster_density_peaks(features, params["num_clusters"], valid, params["k"])
    assert groups.shape == arrays["cluster_indices"].shape and centres.shape == arrays["center_indices"].shape
    nearest = torch.cdist(features.double(), features.double()).topk(params["k"], largest=False).values
    if bool((nearest.square().sum(-1).sort().values.diff() > TIE).all()):
        np.testing.assert_array_equal(groups, arrays["cluster_indices"])
        np.testing.assert_array_equal(centres, arrays["center_indices"])


def check_whole(params: dict[str, Any], arrays: Arrays) -> None:
    """If a frame has a single cluster, its position is a tie, so tokens are compared regardless of their order."""
    features, attention = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["cls_attention"])
    settings = {name: params[key] for key, name in PARAMETERS.items() if key in params}
    if "ZeroDivisionError" in params.get("error", ""):
        with pytest.raises(InputError, match="flashvid"):
            release.flashvid_tokens(features, attention, params["retention_ratio"], **settings)
        return
    out = release.flashvid_tokens(features, attention, params["retention_ratio"], **settings)
    if "error" in params:
        return
    if settings.get("do_segment", True):
        same = compare_segments(features.mean(1), settings.get("cut", 0.9), out.segments, arrays["segment_lengths"])
    else:
        same = out.segments == arrays["segment_lengths"].tolist()
    if not same or not params.get("robust_to_rounding", True):
        return
    assert out.tokens.shape == arrays["out_tokens"].shape
    if params.get("has_single_cluster_frame"):
        distance = torch.cdist(out.tokens.double(), torch.from_numpy(arrays["out_tokens"]).double())
        assert max(float(distance.amin(0).max()), float(distance.amin(1).max())) < ATOL * features.shape[-1]
        return
    np.testing.assert_array_equal(out.index, arrays["out_indices"])
    np.testing.assert_allclose(out.tokens, arrays["out_tokens"], atol=ATOL, rtol=ATOL)


def check_kept_in_llm(params: dict[str, Any], arrays: Arrays) -> None:
    attention = torch.from_numpy(arrays["attention"])[0, :, 0]
    kept = release.kept_in_llm(attention, params["visual_start"], params["visual_len"], params["llm_retention_ratio"])
    np.testing.assert_array_equal(kept, arrays["keep_indices"])
    np.testing.assert_array_equal(arrays["hidden"][:, kept], arrays["out_hidden"])
    np.testing.assert_array_equal(kept[None], arrays["out_position_ids"])
    start, length = params["visual_start"], params["visual_len"]
    video = VideoTokens.from_grid(torch.from_numpy(arrays["hidden"])[0, start : start + length][None, None])
    stage = PruneToRatio(19, params["llm_retention_ratio"])
    received = attention.float().mean(0)[start : start + length]
    rows = stage.decide(video, received, 19, *stage.counts(length, length, 28), None).rows
    np.testing.assert_array_equal(rows + start, [row for row in kept.tolist() if start <= row < start + length])
