"""How well scores of tokens rank the evidence among them, as areas under curves: 0.5 is chance, 1 is perfect.

Dimensions: N visual tokens of a video, R questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata


def ranking_auc(scores: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return for each question the chance that a token with evidence scores higher than one without; ties count half.

    Args:
        scores: (N,).
        evidence: (R, N) bool.

    Returns:
        (R,), NaN where no token or every token has evidence.
    """
    ranks, held = rankdata(scores), evidence.sum(axis=1)
    others = evidence.shape[1] - held
    with np.errstate(invalid="ignore", divide="ignore"):
        return (evidence @ ranks - held * (held + 1) / 2) / (held * others)


def top_recall(scores: np.ndarray, evidence: np.ndarray, share: float) -> np.ndarray:
    """Return for each question the share of its evidence among a share of the tokens with the highest scores.

    Args:
        scores: (N,).
        evidence: (R, N) bool.
        share: of the tokens, in (0, 1]; ties go to the lower index.

    Returns:
        (R,), NaN where no token has evidence.
    """
    top = np.argsort(-scores, kind="stable")[: max(1, round(share * len(scores)))]
    with np.errstate(invalid="ignore", divide="ignore"):
        return evidence[:, top].sum(axis=1) / evidence.sum(axis=1)


def recall_auc(shares: Sequence[float], recalls: np.ndarray) -> np.ndarray:
    """Return the area under the recall of evidence over the share of tokens kept, for methods without scores.

    The curve runs in straight lines through (0, 0), the given points, and (1, 1). It is the area of
    :func:`ranking_auc` up to the share of the evidence among the tokens and the gaps between the points.

    Args:
        shares: ascending shares of the tokens, in (0, 1).
        recalls: (len(shares), R) recall of each question at these shares.

    Returns:
        (R,).
    """
    ones = np.ones((1, recalls.shape[1]))
    return np.trapezoid(np.concatenate([0 * ones, recalls, ones]), [0.0, *shares, 1.0], axis=0)
