"""The pruner of the STC release (arXiv 2512.00891; lern-to-write/STC @ 9b13ce0), reproduced with its defects.

Dimensions: n frames of P tokens in a chunk, D width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from framefold.adapters.ops.similarity import gaussian_similarity, normalize


def prune_chunks(chunks: Iterable[Tensor], per_frame: int, channel_keep: float = 0.5) -> list[Tensor]:
    """Return the rows that the release keeps of each chunk of one video.

    The memory is the mean over the chunks so far of their mean tokens, each reduced to the channels of lowest variance
    in its own chunk, in the order of their variance. So it averages different channels of different chunks, and depends
    on how the frames are divided into chunks.

    Args:
        chunks: (n, P, D) features of consecutive frames.
        per_frame: tokens kept of each frame, at most P.
        channel_keep: fraction of the channels that are compared.

    Returns:
        For each chunk (n * per_frame,) rows of its n * P tokens, ascending.
    """
    means: list[Tensor] = []
    kept = []
    for chunk in chunks:
        variance = chunk.flatten(0, 1).var(0, correction=0)
        order = torch.sort(variance, stable=True).indices
        part = chunk[..., order[: max(1, int(len(order) * channel_keep))]]
        means.append(part.mean((0, 1)))
        memory = normalize(torch.stack(means).mean(0, keepdim=True), 1e-12)[0]
        rows = [_novel_rows(normalize(frame, 1e-12), memory, per_frame) for frame in part]
        kept.append(torch.cat([i * chunk.shape[1] + frame for i, frame in enumerate(rows)]))
    return kept


def _novel_rows(unit: Tensor, memory: Tensor, count: int) -> Tensor:
    redundancy = gaussian_similarity(unit, unit.mean(0)) + gaussian_similarity(unit, memory)
    return torch.sort(redundancy, stable=True).indices[:count].sort().values


def add_newlines(kept: Tensor, height: int, width: int) -> Tensor:
    """Convert kept rows of H x W frames to rows of H x (W + 1) frames that end each line with a newline token.

    Returns:
        Frame by frame the kept rows, and behind them all newline tokens of the frame.
    """
    frame, place = kept // (height * width), kept % (height * width)
    size = height * (width + 1)
    rows = frame * size + place // width * (width + 1) + place % width
    newlines = torch.arange(height, device=kept.device) * (width + 1) + width
    frames = frame.unique_consecutive()
    return torch.cat([torch.cat([rows[frame == t], t * size + newlines]) for t in frames])
