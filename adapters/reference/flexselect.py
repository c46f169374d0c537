"""The released code of FlexSelect: scores from a language model's attention, and the rank loss (arXiv 2506.00993).

The temperature of the released loss is absolute, while scores shrink with the number of tokens, so its gradient is
nearly 0 or huge, depending on the length of the video; :mod:`framefold.training.score_losses` standardises instead.

Dimensions: L columns of a prompt, of which N are visual; C width, h heads, g key-value heads, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.layers.cross_attention import RMSNorm
from framefold.adapters.layers.soft_rank import correlation, soft_rank

TEMPERATURE = 1e-4  # of the released loss


def rotate_halves(x: Tensor, base: float) -> Tensor:
    """Return (h, L, d) queries or keys, rotated by their columns; channel i is paired with channel i + d / 2."""
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = torch.arange(x.shape[1], dtype=torch.float32)[:, None] * speed
    first, second = x[..., :half], x[..., half:]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def question_attention(query: Tensor, key: Tensor, video: slice) -> Tensor:
    """Return (h, words, N) attention weights of the columns behind the video to the video.

    Args:
        query: (h, L, d) after rotation.
        key: (g, L, d) after rotation.
        video: columns of the N visual tokens; all columns behind them are the question.
    """
    key = key.repeat_interleave(len(query) // len(key), 0)
    asking = torch.arange(video.stop, query.shape[1])
    logits = query[:, asking] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    unseen = torch.arange(key.shape[1]) > asking[:, None]
    return logits.masked_fill(unseen, -torch.inf).softmax(-1)[..., video]


def attention_scores(
    hidden: Tensor,
    norm: RMSNorm,
    query: torch.nn.Linear,
    key: torch.nn.Linear,
    heads: int,
    kv_heads: int,
    video: slice,
    base: float,
) -> tuple[Tensor, Tensor]:
    """Return two (N,) scores of the visual tokens: largest and mean attention over heads and words of the question.

    Args:
        hidden: (L, C) states that enter the reference layer.
        norm: its norm.
        query: its projection to queries.
        key: its projection to keys.
        heads: h.
        kv_heads: g.
        video: columns of the visual tokens.
        base: of the rotation.
    """
    normed = norm(hidden)
    queries = rotate_halves(query(normed).unflatten(-1, (heads, -1)).transpose(0, 1), base)
    keys = rotate_halves(key(normed).unflatten(-1, (kv_heads, -1)).transpose(0, 1), base)
    attention = question_attention(queries, keys, video)
    return attention.amax((0, 1)), attention.mean((0, 1))


def released_rank_loss(scores: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 minus Spearman's correlation of (N,) scores with those of the teacher, a scalar; ties are arbitrary."""
    ranks = teacher.argsort().argsort().to(scores.dtype)
    return 1 - correlation(soft_rank(scores, TEMPERATURE), ranks)
