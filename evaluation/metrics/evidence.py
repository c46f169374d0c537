"""What became of the visual tokens of a video, and of the evidence among them.

Evidence recall of a question is the share of the visual tokens with its evidence that went into a kept one, as
``VideoTokens.assign`` says: a token that was merged into another counts as kept, wherever the anchor is. Evidence
purity tells how much of it is left there: the mean, over the same tokens, of the share of the originals of the kept
token that are evidence, 0 for what was dropped. The two are equal where tokens are only pruned.

Dimensions: N visual tokens of a video, K kept ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from framefold.adapters.core.tokens import VideoTokens


@dataclass(frozen=True)
class KeptEvidence:
    """What became of the tokens of a video: (N,) row of each, -1 if dropped; (K,) originals of each row."""

    assign: np.ndarray
    count: np.ndarray
    tokens: int

    @classmethod
    def of(cls, tokens: VideoTokens) -> KeptEvidence:
        assign = tokens.assign.cpu().numpy()
        return cls(assign, np.bincount(assign[assign >= 0], minlength=len(tokens)), len(tokens))

    def recall(self, evidence: np.ndarray) -> float | None:
        """Share of (N,) evidence that went into a kept token; None if there is no evidence."""
        return float((self.assign[evidence] >= 0).mean()) if evidence.any() else None

    def purity(self, evidence: np.ndarray) -> float | None:
        """Mean over the evidence of the share of the originals of its kept token that are evidence, too."""
        if not evidence.any():
            return None
        rows = self.assign[evidence]
        found = np.bincount(rows[rows >= 0], minlength=self.tokens)
        return float((found * found / np.maximum(self.count, 1)).sum() / len(rows))
