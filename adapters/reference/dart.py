"""The choice of DART's release: pivots, and the tokens least similar to each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def dart_pivots(keys: Tensor, start: int, length: int, image: int, text: int) -> tuple[Tensor, Tensor]:
    """Return the places of the tokens with the largest L1 norm of their keys, largest first.

    Args:
        keys: (heads, L, d) keys of the layer before the reduction; their heads are concatenated.
        start: place of the first visual token.
        length: number of visual tokens N.
        image: number of pivots among the visual tokens.
        text: number of pivots among the tokens after them; all of these if there are fewer.

    Returns:
        (image,) and (text,) int64 places.
    """
    size = keys.float().abs().sum(dim=(0, 2))
    order = torch.sort(size[start : start + length], descending=True, stable=True).indices[:image] + start
    after = torch.sort(size[start + length :], descending=True, stable=True).indices[:text] + start + length
    return order, after


@torch.no_grad()
def dart_rows(
    hidden: Tensor, start: int, length: int, image_pivots: Sequence[int], pivots: Sequence[int], each: int
) -> Tensor:
    """Return the places of the visual tokens that the release keeps, ascending.

    Args:
        hidden: (L, D) hidden states after the final norm.
        start: place of the first visual token.
        length: number of visual tokens N.
        image_pivots: places of the visual tokens that are kept as pivots.
        pivots: places of all pivots in the order in which they take tokens. In the release it is that of a Python set.
        each: number of tokens that a pivot takes, see :func:`dart_share`.
    """
    unit = torch.nn.functional.normalize(hidden.float(), dim=-1)
    free = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    free[start : start + length] = True
    free[list(image_pivots)] = False
    for pivot in pivots:
        similarity = torch.where(free, unit @ unit[pivot], torch.inf)
        taken = torch.sort(similarity, stable=True).indices[: min(each, int(free.sum()))]
        free[taken] = False
    kept = ~free[start : start + length]
    return kept.nonzero()[:, 0] + start


def dart_share(length: int, ratio: float, pivots: int) -> int:
    """Return the number of tokens that each pivot takes; the pivots come on top, and the text ones keep none."""
    return max(1, int(length * ratio / pivots))
