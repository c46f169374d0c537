"""The released TDC: segments of frames, chunks with a static frame, and a query transformer (arXiv 2504.10443).

Dimensions: T frames of P tokens of width D, K queries of width W, L words of the question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_SEGMENT_ENDS, MOST_FRAMES, LONGEST_CHUNK = 24, 224, 8
EPS = 1e-12  # of all layer norms

Weights = Mapping[str, Tensor]


def sampled_frames(frames: int, most: int = MOST_FRAMES) -> list[int]:
    """Return the numbers of the frames that are used: all, or ``most`` evenly spaced ones of a longer video."""
    return list(range(frames)) if frames <= most else [int(i * frames / most) for i in range(most)]


def neighbour_cosines(x: Tensor) -> Tensor:
    """Return (T - 1,) cosine similarities of neighbouring frames of a (T, ...) video, each frame as one vector."""
    return F.cosine_similarity(x[1:].flatten(1), x[:-1].flatten(1), dim=1)


def segment_ends(cosines: Tensor, most: int = MOST_SEGMENT_ENDS) -> list[int]:
    """Return the last frames of segments, ascending: those least similar to the next frame.

    A video of at most ``most`` + 1 frames is not compressed: every frame ends a segment, also the last one.

    Args:
        cosines: (T - 1,) similarities of neighbouring frames.
        most: number of ends.
    """
    frames = len(cosines) + 1
    if frames <= most + 1:
        return list(range(frames))
    return sorted(torch.sort(cosines, stable=True).indices[:most].tolist())


def chunk_bounds(frames: int, ends: Sequence[int], longest: int = LONGEST_CHUNK) -> list[tuple[int, int]]:
    """Return first frame and end of each chunk: segments are cut into chunks of at most ``longest`` frames."""
    points = [0, *(end + 1 for end in ends if end + 1 < frames), frames]
    return [
        (first, min(first + longest, last))
        for start, last in zip(points[:-1], points[1:], strict=True)
        for first in range(start, last, longest)
    ]


def pooled_queries(frame: Tensor, count: int) -> Tensor:
    """Return the (K, D) means of runs of a (P, D) frame in raster order, which may overlap by a token."""
    return F.adaptive_avg_pool1d(frame.T, count).T


def first_queries(frame: Tensor, weights: Weights, count: int) -> Tensor:
    """Return the (K, W) queries of a chunk: learned ``query_tokens``, or pooled from its first (P, D) frame."""
    if "query_tokens" in weights:
        return weights["query_tokens"].reshape(count, -1)
    return _linear(pooled_queries(frame, count), weights, "query_proj")


def compressed_chunks(
    x: Tensor,
    chunks: Sequence[tuple[int, int]],
    separator: Tensor,
    weights: Weights,
    text: Tensor | None,
    queries: int,
    heads: int,
    static: bool = True,
    most: int | None = None,
) -> Tensor:
    """Return the (n, D) tokens of a video.

    Args:
        x: (T, P, D).
        chunks: first frame and end of each.
        separator: (D,) token after each frame.
        weights: of the release, by name.
        text: (L,) ids of the words of the question, or None.
        queries: number K of summary tokens of a frame.
        heads: number of attention heads.
        static: keep the first frame of a chunk as it is, instead of summarizing it as well.
        most: number of tokens above which each chunk loses tokens at its end.
    """
    found = []
    for start, end in chunks:
        parts = [x[start], separator[None]] if static else []
        rest = x[start + static : end]
        if len(rest):
            asked = first_queries(x[start], weights, queries)
            read = query_transformer(asked.expand(len(rest), -1, -1), rest, weights, text, heads)[:, :queries]
            summary = F.normalize(_linear(read, weights, "vision_proj"), dim=-1)
            marks = separator.expand(len(rest), 1, -1)
            parts.append(torch.cat([summary, marks], dim=1).flatten(0, 1))
        found.append(torch.cat(parts))
    total = sum(map(len, found))
    if most is not None and total > most:
        cut = math.ceil((total - most) / len(found))
        found = [chunk[:-cut] for chunk in found]
    return torch.cat(found)[:most]


def query_transformer(queries: Tensor, memory: Tensor, weights: Weights, text: Tensor | None, heads: int) -> Tensor:
    """Return (F, K + L, W) queries and words after a BERT whose queries read the memory in layers that can.

    Args:
        queries: (F, K, W) of each frame; they have no positions.
        memory: (F, P, D) tokens of each frame.
        weights: of the release, by name.
        text: (L,) ids of words, or None.
        heads: number of attention heads.
    """
    count, x = queries.shape[1], queries
    if text is not None:
        words = weights["qformer.embeddings.word_embeddings.weight"][text]
        words = words + weights["qformer.embeddings.position_embeddings.weight"][: len(text)]
        x = torch.cat([queries, words.expand(len(queries), -1, -1)], dim=1)
    x = _norm(x, weights, "qformer.embeddings.LayerNorm")
    layer = 0
    while f"qformer.encoder.layer.{layer}.output.dense.weight" in weights:
        name = f"qformer.encoder.layer.{layer}"
        x = _attend(x, x, weights, f"{name}.attention", heads)
        read, words = x[:, :count], x[:, count:]
        if f"{name}.crossattention.self.query.weight" in weights:
            read = _attend(read, memory, weights, f"{name}.crossattention", heads)
        x = torch.cat([_feed(read, weights, name, "_query"), _feed(words, weights, name, "")], dim=1)
        layer += 1
    return x


def _attend(x: Tensor, memory: Tensor, weights: Weights, name: str, heads: int) -> Tensor:
    projected = (
        _linear(values, weights, f"{name}.self.{part}").unflatten(-1, (heads, -1)).transpose(1, 2)
        for values, part in ((x, "query"), (memory, "key"), (memory, "value"))
    )
    out = F.scaled_dot_product_attention(*projected).transpose(1, 2).flatten(2)
    return _norm(_linear(out, weights, f"{name}.output.dense") + x, weights, f"{name}.output.LayerNorm")


def _feed(x: Tensor, weights: Weights, name: str, kind: str) -> Tensor:
    hidden = F.gelu(_linear(x, weights, f"{name}.intermediate{kind}.dense"))
    out = _linear(hidden, weights, f"{name}.output{kind}.dense")
    return _norm(out + x, weights, f"{name}.output{kind}.LayerNorm")


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], EPS)
