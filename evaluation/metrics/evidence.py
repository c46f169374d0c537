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
