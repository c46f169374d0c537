"""Map between the columns of a batch of prompts and those of its shortened form. Only tensors; no hooks, no host.

Dimensions: B rows, L columns before, L' columns after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class Compaction:
    """Map from the columns of the shortened batch to those of the original one.

    Attributes:
        src: (B, L') int64 original column of each new column; 0 where ``pad``.
        pad: (B, L') bool, new columns without an original column.
        filler: (B, L') bool, the columns of ``pad`` that must be placeholders, so that the host's feature counts match.
        n_before: L.
        trivial: whether every column keeps its place.
    """

    src: Tensor
    pad: Tensor
    filler: Tensor
    n_before: int
    trivial: bool

    @property
    def n_after(self) -> int:
        """Number of columns after, L'."""
        return self.src.shape[1]

    @property
    def removed(self) -> int:
        """Number of columns removed, L - L'; negative if filler made the batch longer."""
        return self.n_before - self.n_after

    def gather(self, values: Tensor, fill: int) -> Tensor:
        """Select one value per column: (..., B, L) -> (..., B, L'), with ``fill`` in the new padding."""
        if self.trivial:
            return values
        src = self.src.expand(*values.shape[:-1], self.n_after)
        return values.gather(-1, src).masked_fill(self.pad, fill)

    def gather_vectors(self, values: Tensor) -> Tensor:
        """Select one vector per column: (B, L, D) -> (B, L', D), with zeros in the new padding."""
        if self.trivial:
            return values
        rows = torch.arange(values.shape[0], device=values.device)[:, None]
        return values[rows, self.src].masked_fill(self.pad[..., None], 0)

    def gather_shifted(self, values: Tensor, fill: int) -> tuple[Tensor, int]:
        """Move values that each belong to the next column: (B, L) -> (B, L').

        A value moves to the last kept column before the one that it belongs to. Values other than ``fill`` must not
        belong to a dropped column.

        Returns:
            The values, ``fill`` elsewhere; and the number of values that are lost, as no column before them is kept.
        """
        if self.trivial:
            return values, 0
        rows, columns = (values != fill).nonzero(as_tuple=True)
        new = self.last_kept()[rows, columns]
        moved = values.new_full(self.src.shape, fill)
        moved[rows, new] = values[rows, columns]
        return moved, int((self.src[rows, new] > columns).sum())

    def expand(self, values: Tensor) -> Tensor:
        """Give every original column the value of its last kept predecessor: (B, L', ...) -> (B, L, ...).

        Columns before the first kept one take the value of that one. This aligns labels of length L with the logits
        that predict them.
        """
        if self.trivial:
            return values
        rows = torch.arange(values.shape[0], device=values.device)[:, None]
        return values[rows, self.last_kept()]

    def new_columns(self) -> Tensor:
        """Return the (B, L) int64 new column of each original one, -1 where it was removed."""
        new = torch.full((len(self.src), self.n_before), -1, dtype=torch.long, device=self.src.device)
        rows, columns = (~self.pad).nonzero(as_tuple=True)
        new[rows, self.src[rows, columns]] = columns
        return new

    def last_kept(self) -> Tensor:
        """Return the (B, L) int64 new column of the last kept column at or before each original one."""
        rows, length = self.src.shape
        device = self.src.device
        column = torch.arange(length, device=device).expand(rows, length)
        first = column.masked_fill(self.pad, length - 1).amin(-1, keepdim=True)
        latest = torch.zeros(rows, self.n_before, dtype=torch.long, device=device)
        latest.scatter_reduce_(1, self.src, column.masked_fill(self.pad, 0), "amax")
        return latest.cummax(-1).values.maximum(first)


def compact(
    keep: Tensor, real: Tensor, side: Side = "right", filler: Tensor | None = None, padded: bool = False
) -> Compaction:
    """Remove dropped columns from each row and pad the rows to a common length again.

    If nothing is dropped, the batch is unchanged, padding included. Otherwise old padding is removed and L' is minimal.

    Args:
        keep: (B, L) bool, columns to keep.
        real: (B, L) bool, columns that are not padding. Only columns before the first or after the last real column of
            a row count as padding.
        side: side of new padding.
        filler: (B,) int64 padding columns that each row needs for placeholders without a token.
        padded: whether a batch that is shortened must contain padding; it gets a column of padding if it has none.
    """
    batch, before = keep.shape
    filler = torch.zeros(batch, dtype=torch.long, device=keep.device) if filler is None else filler
    if bool(keep.all()) and not bool(filler.any()):
        src = torch.arange(before, device=keep.device).expand(batch, before)
        no_pad = torch.zeros_like(keep)
        return Compaction(src, no_pad, no_pad, before, trivial=True)

    keep = keep & _between_ends(real)
    count = keep.sum(-1, keepdim=True)
    after = int((count[:, 0] + filler).max())
    after += padded and bool((count[:, 0] == after).all())
    kept_first = torch.argsort((~keep).to(torch.uint8), dim=-1, stable=True)
    column = torch.arange(after, device=keep.device).expand(batch, after)
    rank = column - (after - count) if side == "left" else column  # index of the kept column at this new column
    pad = (rank < 0) | (rank >= count)
    src = kept_first.gather(1, rank.clamp(0, before - 1)).masked_fill(pad, 0)
    fill = filler[:, None]
    filled = pad & ((rank >= -fill) if side == "left" else (rank < count + fill))
    return Compaction(src, pad, filled, before, trivial=False)


def _between_ends(real: Tensor) -> Tensor:
    """Return a mask of the columns from the first to the last real column of each row."""
    from_first = real.long().cummax(-1).values
    to_last = real.flip(-1).long().cummax(-1).values.flip(-1)
    return (from_first & to_last).bool()
