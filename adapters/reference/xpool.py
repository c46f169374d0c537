"""The released X-Pool: frames pooled for each text by attention (arXiv 2203.15086), and its losses.

Dimensions: V videos of T frames, B texts, D width, h heads, d = D / h.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.01  # of the attention without parameters

Weights = Mapping[str, Tensor]  # names of the release; missing linear layers are the identity, and norms plain


@dataclass(frozen=True)
class Pooled:
    """Frames of every video, pooled for every text.

    Attributes:
        logits: (V, h, T, B) of the attention.
        attention: (V, h, T, B), which sums to 1 over the frames.
        pooled: (V, B, D).
    """

    logits: Tensor
    attention: Tensor
    pooled: Tensor


def pool_frames(text: Tensor, video: Tensor, weights: Weights, heads: int = 1) -> Pooled:
    """Pool the frames of every video for every text; without dropout.

    Args:
        text: (B, D).
        video: (V, T, D).
        weights: of the module; empty for its start.
        heads: h.
    """
    asked, frames = (_norm(x, weights, "layer_norm1") for x in (text, video))  # the same norm for both
    query = _linear(asked, weights, "cross_attn.q_proj").unflatten(-1, (heads, -1))
    key, value = (
        _linear(frames, weights, f"cross_attn.{name}").unflatten(-1, (heads, -1)) for name in ("k_proj", "v_proj")
    )
    logits = torch.einsum("vthd,bhd->vhtb", key, query) / query.shape[-1] ** 0.5
    attention = logits.softmax(2)
    mixed = torch.einsum("vhtb,vthd->vbhd", attention, value).flatten(2)
    mixed = _norm(_linear(mixed, weights, "cross_attn.out_proj"), weights, "layer_norm2")
    return Pooled(logits, attention, _norm(mixed + _linear(mixed, weights, "linear_proj"), weights, "layer_norm3"))


def similarities(text: Tensor, pooled: Tensor) -> Tensor:
    """Return (B, V) cosines of the texts and the videos that are pooled for them, from (V, B, D) pooled frames."""
    return torch.einsum("bd,vbd->bv", F.normalize(text, dim=-1), F.normalize(pooled, dim=-1))


def contrastive_loss(similarity: Tensor, scale: float) -> Tensor:
    """Return the mean of the cross-entropies over videos and over texts of (B, B) similarities times a scale."""
    logits, target = similarity * scale, torch.arange(len(similarity), device=similarity.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def mean_frames(video: Tensor) -> Tensor:
    """Return (V, D) means of the directions of frames."""
    return F.normalize(video, dim=-1).mean(1)


def best_frames(text: Tensor, video: Tensor, count: int) -> Tensor:
    """Return (V, B, D) sums, not means, of the directions of the frames most similar to each text."""
    frames = F.normalize(video, dim=-1)
    chosen = (frames @ F.normalize(text, dim=-1).T).topk(count, dim=1).indices  # (V, count, B)
    return torch.stack([frames[i][rows].sum(0) for i, rows in enumerate(chosen)])


def attended_frames(text: Tensor, video: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Return (V, B, D) means of the directions of frames, weighted by the softmax of their similarities to a text."""
    frames = F.normalize(video, dim=-1)
    weights = ((frames @ F.normalize(text, dim=-1).T) / temperature).softmax(1)
    return torch.einsum("vtb,vtd->vbd", weights, frames)


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    if f"{name}.weight" not in weights:
        return x
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights.get(f"{name}.weight"), weights.get(f"{name}.bias"))
