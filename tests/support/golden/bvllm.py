"""Golden files of B-VLLM: summaries and logits of frames, the selection, merged frames, and merged tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference import bvllm
from tests.support.golden_cases import golden_cases

ATOL = 1e-5


def check(data: Any) -> None:
    """Check a file of the two merges alone, or of whole selections."""
    if "selector_rows" in data:
        return check_merges({name: torch.from_numpy(np.asarray(data[name])) for name in data})
    for _, params, arrays in golden_cases(data):
        assert (params["tau"], params["threshold"]) == (bvllm.TEMPERATURE, bvllm.THRESHOLD)
        check_selection({name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()})
    return None


def check_merges(golden: dict[str, torch.Tensor]) -> None:
    similarities = bvllm.earlier_similarities(golden["selector_rows"])
    _close(similarities, golden["sim01_strict_lower"])
    merged = bvllm.merge_frames(golden["feats_k_n_c"], similarities, float(golden["threshold"]))
    _close(merged, golden["merged"])
    for count in (32, 20, 16, 11, 7):
        _close(bvllm.halve_tokens(golden["x"], count), golden[f"to_{count}"])


def check_selection(golden: dict[str, torch.Tensor]) -> None:
    summaries, patches = bvllm.split_class_token(golden["features"])
    _close(summaries, golden["cls"])
    logits = bvllm.selection_logits(golden["query_vectors"], summaries)
    _close(logits, golden["logits"])
    weights = bvllm.selection(logits, golden["gumbel"])
    _close(weights, golden["selector"])
    frames = bvllm.merge_frames(bvllm.selected_frames(weights, patches), bvllm.earlier_similarities(weights))
    _close(frames, golden["frames_merged"])
    count = bvllm.tokens_per_frame(len(frames))
    assert count == int(golden["tokens_per_frame_target"])
    _close(bvllm.halve_tokens(golden["spatial_out"], count).flatten(0, 1), golden["out"])


def _close(found: torch.Tensor, golden: torch.Tensor) -> None:
    torch.testing.assert_close(found, golden, rtol=0, atol=ATOL)
