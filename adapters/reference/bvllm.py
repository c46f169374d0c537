"""The released B-VLLM: frames selected by the question, merged, and a number of tokens for each (arXiv 2412.09919).

Its two query transformers are not here: what they return is given. Noise is given instead of being drawn at random,
which the release also does at inference.
Dimensions: T frames of P tokens, D width, K rows of the selection, F merged frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .tome import tome_step

TEMPERATURE, THRESHOLD = 0.5, 0.75
MOST_FRAMES, FRAME_TOKENS = 18, 32  # frames of 32 tokens that fill the context


def split_class_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (T, D) summary of each frame, and its patches.

    An odd number of tokens is read as a class token with an even number of patches; an even one as patches alone, of
    which the summary is the mean.
    """
    return (x[:, 0], x[:, 1:]) if x.shape[1] % 2 else (x.mean(1), x)


def selection_logits(queries: Tensor, summaries: Tensor) -> Tensor:
    """Return the (K, T) logits of (K, D) queries and (T, D) summaries of frames."""
    return queries @ summaries.T / summaries.shape[-1] ** 0.5


def selection(logits: Tensor, noise: Tensor) -> Tensor:
    """Return (K, T) weights of frames, a softmax of (K, T) logits with Gumbel noise."""
    return ((logits + noise) / TEMPERATURE).softmax(-1)


def selected_frames(weights: Tensor, patches: Tensor) -> Tensor:
    """Return (K, P, D) weighted sums of frames, whose patches are normalized first, without weights."""
    return torch.einsum("kt,tpd->kpd", weights, F.layer_norm(patches, patches.shape[-1:]))


def earlier_similarities(weights: Tensor) -> Tensor:
    """Return the (K, K) similarities in [0, 1] of each row of the selection to those before it, and zeros."""
    cosines = F.cosine_similarity(weights[:, None], weights[None], dim=-1)
    return ((cosines + 1) / 2).tril(-1)


def merge_frames(frames: Tensor, similarities: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Return the (F, P, D) means of frames and those that join them.

    A frame joins the most similar earlier one above the threshold. A frame that joins one that has joined another is
    lost: only direct joins count.
    """
    best, row = similarities.max(-1)
    joins = best > threshold
    kept = (~joins).nonzero()[:, 0].tolist()
    members = [torch.cat([torch.tensor([one]), (joins & (row == one)).nonzero()[:, 0]]) for one in kept]
    return torch.stack([frames[rows].mean(0) for rows in members])


def tokens_per_frame(frames: int) -> int:
    """Return the number of tokens of each of F merged frames."""
    return int(max(1, MOST_FRAMES / frames * FRAME_TOKENS))


def halve_tokens(x: Tensor, count: int) -> Tensor:
    """Return (F, min(P, count), D) means: pairs are merged, at most half of the tokens in a round, without their sizes.

    With 16 rows of the selection, each frame may have 36 or more of its 32 tokens, so that nothing is merged.
    """
    while x.shape[1] > count:
        ones = x.new_ones(*x.shape[:2], 1)
        x = tome_step(x, ones, x, min(x.shape[1] - count, x.shape[1] // 2))[0]
    return x
