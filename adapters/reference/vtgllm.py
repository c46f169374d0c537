"""The released VTG-LLM: slots over all tokens, time tables and how their gaps are filled, codes (arXiv 2405.13382).

Dimensions: B videos, T frames of P tokens, N = T*P, D width, S slots.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def timed_tokens(x: Tensor, seconds: Tensor, frame_table: Tensor, time_table: Tensor) -> Tensor:
    """Return (B, T, P, D) tokens plus the row of their frame and the row of their second.

    Args:
        x: (B, T, P, D).
        seconds: (B, T) int64 rounded times.
        frame_table: (at least T, D).
        time_table: (more than the last second, D).
    """
    position = frame_table[: x.shape[1]] + time_table[seconds]
    return x + position[:, :, None]


def slot_tokens(tokens: Tensor, slots: Tensor) -> Tensor:
    """Return (B, S, D) weighted means of all tokens; the weights of a slot are a softmax of plain inner products.

    Args:
        tokens: (B, N, D).
        slots: (D, S).
    """
    return (tokens @ slots).softmax(1).mT @ tokens


def filled_table(table: Tensor) -> Tensor:
    """Return a time table whose rows of zeros are filled from the nearest other rows, as the release does on loading.

    The two weights are interchanged, so that a row resembles the farther neighbour; behind the last row with values,
    the last row of the table stands at position -1, and before the first one, row 0 is a neighbour, whatever it holds.
    Of a gap, later rows are filled first.
    """
    table = table.clone()
    for row, left, right in _gaps((table == 0).all(1).tolist()):
        span = right - left
        table[row] = table[left] * (row - left) / span + table[right] * (right - row) / span
    return table


def _gaps(empty: list[bool]) -> Iterator[tuple[int, int, int]]:
    """Yield the empty rows in the order of filling, each with the rows on its left and right."""
    left = 0
    waiting: list[int] = []
    for row, missing in enumerate([*empty, False]):
        if missing:
            waiting.append(row)
            continue
        right = row if row < len(empty) else -1
        for one in reversed(waiting):
            yield one, left, right
        waiting, left = [], row


def nearest_tokens(tokens: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (B, S, D) token nearest to each of (S, D) codes, and the loss that draws both together, a scalar.

    Values are those of the tokens, gradients of values go to the codes alone.

    Args:
        tokens: (B, N, D).
        codes: (S, D).
    """
    row = torch.cdist(codes.expand(len(tokens), -1, -1), tokens).argmin(-1)
    near = tokens.gather(1, row[..., None].expand(-1, -1, tokens.shape[-1]))
    loss = (near.detach() - codes).square().mean() + (near - codes.detach()).square().mean()
    return codes + (near - codes).detach(), loss
