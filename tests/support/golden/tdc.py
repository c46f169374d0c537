"""Golden files of TDC: segments and chunks, and the tokens of whole videos with the query transformer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference import tdc
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    """Check a file of segments alone, or of whole videos."""
    if "feat" in data:
        return check_segments(data)
    for _, params, arrays in golden_cases(data):
        check_video(params, {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()})
    return None


def check_segments(data: Any) -> None:
    cosines = tdc.neighbour_cosines(torch.from_numpy(data["feat"]))
    np.testing.assert_allclose(cosines, data["cos_adjacent"], rtol=0, atol=ATOL)
    frames, ends = len(data["feat"]), tdc.segment_ends(cosines, int(data["max_num_segments"]))
    assert ends == data["boundary_after_frame"].tolist()
    assert sorted({0, *(end + 1 for end in ends), frames}) == data["split_points"].tolist()
    assert [list(chunk) for chunk in tdc.chunk_bounds(frames, ends)] == data["chunks_start_end"].tolist()


def check_video(params: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    """Check the queries of frame 0, frame 1 after the query transformer, and all tokens."""
    x, count, heads = golden["features"], params["K"], params["heads"]
    weights = {name.removeprefix("w."): value for name, value in golden.items() if name.startswith("w.")}
    if params.get("query_type") != "learned":
        weights.pop("query_tokens", None)
    text = golden["text_ids"] if params.get("text", True) else None
    ends = golden["segment_after_frame"].tolist()
    if len(x) <= params["S"] + 1:
        assert tdc.segment_ends(tdc.neighbour_cosines(x), params["S"]) == ends
    chunks, static = tdc.chunk_bounds(len(x), ends), params.get("keep", True)
    out = tdc.compressed_chunks(
        x, chunks, golden["separator"], weights, text, count, heads, static, params.get("maxlen")
    )
    _close(out, golden["out"])
    if "pooled_queries_frame0" in golden:
        _close(tdc.pooled_queries(x[0], count), golden["pooled_queries_frame0"])
    if "qformer_frame1" in golden:
        queries = tdc.first_queries(x[0], weights, count)
        _close(tdc.query_transformer(queries[None], x[1:2], weights, text, heads)[0], golden["qformer_frame1"])


def _close(found: torch.Tensor, golden: torch.Tensor) -> None:
    torch.testing.assert_close(found, golden, rtol=0, atol=ATOL)
