"""VisionZip as released: for images, and as HoliTom's authors adapted it to the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framefold.adapters.ops.selection import complement
from framefold.errors import InputError


@dataclass(frozen=True)
class ZippedFrame:
    """Which of P tokens the release keeps, and which others it adds to them.

    Attributes:
        dominant: (n,) int64 rows by falling attention.
        targets: (C,) int64 rows of contextual tokens, ascending.
        join: (P,) int64 contextual token that each other token joins; -1 for dominant tokens and targets.
    """

    dominant: Tensor
    targets: Tensor
    join: Tensor

    def tokens(self, x: Tensor) -> Tensor:
        """Return the (n + C, D) dominant tokens in order of place, then the contextual ones.

        A contextual token is its target plus the mean of the tokens that join it, so its norm may double.
        """
        groups = torch.where(self.join < 0, len(self.targets), self.join)
        total = x.new_zeros(len(self.targets) + 1, x.shape[1]).index_add(0, groups, x)[:-1]
        count = torch.bincount(groups, minlength=len(self.targets) + 1)[:-1]
        return torch.cat([x[self.dominant.sort().values], x[self.targets] + total / count.clamp(min=1)[:, None]])


def zip_frame(attention: Tensor, metric: Tensor, dominant: int, contextual: int) -> ZippedFrame:
    """Choose dominant tokens by attention; of the others, every n-th becomes a target, which the rest join.

    Args:
        attention: (P,) attention received.
        metric: (P, d) keys, compared by cosine.
        dominant: number of tokens of highest attention.
        contextual: number of targets.

    Raises:
        InputError: the release fails: there are no contextual tokens, or fewer tokens than both kinds together.
    """
    if contextual < 1:
        raise InputError("visionzip: the release needs at least one contextual token for each frame")
    if dominant + contextual > len(attention):
        raise InputError(f"visionzip: no {dominant} dominant and {contextual} contextual among {len(attention)} tokens")
    first = torch.sort(attention, descending=True, stable=True).indices[:dominant]
    rest = complement(first, len(attention))
    targets = rest[:: max(1, len(rest) // contextual)][:contextual]
    unit = torch.nn.functional.normalize(metric.float(), dim=-1)
    join = (unit @ unit[targets].T).argmax(1)
    join[first] = join[targets] = -1
    return ZippedFrame(first, targets, join)


def image_tokens(hidden: Tensor, attention: Tensor, metric: Tensor, dominant: int, contextual: int) -> Tensor:
    """Return the (1 + dominant + contextual, D) tokens of an image, class token first.

    Args:
        hidden: (1 + P, D) hidden states, class token first.
        attention: (heads, 1 + P) attention of the class token.
        metric: (1 + P, d) keys.
        dominant: number of dominant tokens without the class token.
        contextual: number of contextual tokens.
    """
    chosen = zip_frame(attention.sum(0)[1:], metric[1:], dominant, contextual)
    return torch.cat([hidden[:1], chosen.tokens(hidden[1:])])


def rows_with_newlines(tokens: Tensor, chosen: ZippedFrame, side: int, newline: Tensor) -> Tensor:
    """Return the tokens of a frame row by row, each row followed by a newline embedding (LLaVA-Video).

    Dominant values are in order of place, but the release sorts them by places in order of attention, so values of
    different rows are mixed up.

    Args:
        tokens: of :meth:`ZippedFrame.tokens`.
        chosen: the frame.
        side: number of rows, and of tokens of a row.
        newline: (D,) embedding.
    """
    place = torch.cat([chosen.dominant, chosen.targets])
    order = torch.sort(place, stable=True).indices
    rows = [torch.cat([tokens[order[place[order] // side == row]], newline[None]]) for row in range(side)]
    return torch.cat(rows)
