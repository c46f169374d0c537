"""Relevance and choice of CDPruner as released (arXiv 2506.10967).

Dimensions: B images or frames of N tokens of width D, M parts of the question, C width of the joint embeddings of
pictures and texts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def released_relevance(pictures: Tensor, texts: Tensor) -> Tensor:
    """Return the (B, N) relevance of the tokens, of which the least and the largest of the whole batch are the limits.

    It falls with the cosine similarity of token and question. If all tokens are equally similar, it is infinite.

    Args:
        pictures: (B, N, C) embeddings of the tokens.
        texts: (M, C) embeddings of the parts of the question.
    """
    unlike = -(normalize(pictures, dim=-1) @ normalize(texts, dim=-1).T).mean(-1)
    least, largest = torch.aminmax(unlike)
    return (unlike - least + 1e-6) / (largest - least)


def released_picks(features: Tensor, relevance: Tensor, k: int) -> Tensor:
    """Return the (k,) int64 tokens of one frame in the order of the greedy choice; some may occur more than once.

    The kernel is that of :class:`~framefold.adapters.compressors.dpp.DPP`, without a ridge. Once the chosen tokens span
    all others, gains are rounding errors or not numbers, and tokens are chosen again.

    Args:
        features: (N, D) tokens.
        relevance: (N,) qualities.
        k: number of choices.
    """
    unit = normalize(features, dim=-1)
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    gain = kernel.diagonal().clone()
    rows, picks = kernel.new_zeros(k, len(kernel)), []
    for step in range(k):
        pick = int(gain.argmax())
        row = (kernel[pick] - rows[:step, pick] @ rows[:step]) / gain[pick].sqrt()
        rows[step], gain = row, gain - row.square()
        gain[pick] = -torch.inf
        picks.append(pick)
    return torch.tensor(picks, device=features.device)
