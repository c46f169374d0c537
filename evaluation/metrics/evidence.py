"""Which visual tokens survived compression, and how much evidence they hold.

The evidence recall of a question is the share of the visual tokens with its evidence that went into a kept token
(``VideoTokens.assign``). A token that was merged into another counts as kept, wherever the anchor of that token is. The
evidence purity says how diluted the evidence is there: the mean, over the same tokens, of the share of the originals of
the kept token that are evidence, and 0 for dropped tokens. The two are equal if tokens are only pruned.

Dimensions: N visual tokens of a video, K kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from framefold.adapters.core.tokens import VideoTokens

ONE_PLACE = 0.1  # longest evidence, as a share of the video, that has a position in it

CENTRE, EDGE = "centre", "edge"  # of the frame: its middle half in both directions, and the rest


def evidence_place(evidence: np.ndarray, grid: tuple[int, int, int]) -> tuple[float | None, str | None]:
    """Return where the evidence of a question is: its middle in time, 0 to 1, and the part of the frame.

    Args:
        evidence: (N,) bool mask.
        grid: (T, H, W).

    Returns:
        None for the time if the evidence is longer than a tenth of the video, and for both without evidence.
    """
    steps, rows, columns = (axis.astype(float) for axis in evidence.reshape(grid).nonzero())
    if not len(steps):
        return None, None
    first, last = steps.min(), steps.max()
    when = float((first + last + 1) / 2 / grid[0]) if last - first + 1 <= max(1.0, ONE_PLACE * grid[0]) else None
    middle = (rows.mean() + 0.5) / grid[1], (columns.mean() + 0.5) / grid[2]
    return when, CENTRE if all(0.25 <= place <= 0.75 for place in middle) else EDGE


@dataclass(frozen=True)
class KeptEvidence:
    """Assignment of the visual tokens of a video to the kept tokens.

    Attributes:
        assign: (N,) index of the kept token that each token went into; -1 if it was dropped.
        count: (K,) number of originals of each kept token.
        tokens: K.
    """

    assign: np.ndarray
    count: np.ndarray
    tokens: int

    @classmethod
    def of(cls, tokens: VideoTokens) -> KeptEvidence:
        """Return the assignment of a compressed video."""
        assign = tokens.assign.cpu().numpy()
        return cls(assign, np.bincount(assign[assign >= 0], minlength=len(tokens)), len(tokens))

    def recall(self, evidence: np.ndarray) -> float | None:
        """Return the share of the evidence, an (N,) bool mask, that went into a kept token; None for an empty mask."""
        return float((self.assign[evidence] >= 0).mean()) if evidence.any() else None

    def purity(self, evidence: np.ndarray) -> float | None:
        """Return the mean, over the evidence, of the share of evidence among the originals of its kept token.

        Args:
            evidence: (N,) bool mask.

        Returns:
            None for an empty mask.
        """
        if not evidence.any():
            return None
        kept = self.assign[evidence]
        found = np.bincount(kept[kept >= 0], minlength=self.tokens)
        return float((found * found / np.maximum(self.count, 1)).sum() / len(kept))
