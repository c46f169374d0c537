"""Even spacing of positions, and partitions of positions and frames into near-equal parts."""

from __future__ import annotations

import torch
from torch import Tensor


def even_positions(n: int, k: int, device: torch.device | None = None) -> Tensor:
    """Return k of n positions, evenly spaced: the middles of k equal intervals.

    Returns:
        (k,) int64, strictly ascending for k <= n.
    """
    steps = torch.arange(k, device=device)
    return (2 * steps + 1) * n // (2 * k)


def split_runs(n: int, k: int, device: torch.device | None = None) -> Tensor:
    """Partition n positions into k contiguous runs whose lengths differ by at most one.

    Returns:
        (n,) int64 run of each position, ascending; every run is non-empty for k <= n.
    """
    return torch.arange(n, device=device) * k // n


def split_cells(height: int, width: int, k: int, device: torch.device | None = None) -> Tensor:
    """Partition an H x W frame into exactly k near-square rectangles of near-equal area.

    Rows are split into bands, and each band into columns; numbers of columns differ by at most one.

    Returns:
        (H*W,) int64 rectangle of each cell, row-major; every rectangle is non-empty for k <= H*W.
    """
    bands = round((k * height / width) ** 0.5)
    bands = min(max(bands, 1, -(-k // width)), height, k)
    band = split_runs(height, bands)
    first = torch.arange(bands + 1) * k // bands
    columns = first.diff()[band]
    cells = first[band][:, None] + torch.arange(width) * columns[:, None] // width
    return cells.reshape(-1).to(device)
