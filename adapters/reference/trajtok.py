"""The released TrajTok: a perceiver that segments a chunk into trajectories, and their tokens (arXiv 2602.22779).

Dimensions: N = T*R*R tokens of a chunk, M trajectories, D width of the segmenter, V width of the pooled features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SEGMENTER_HEADS = 8
EPS = 1e-6  # of the norms outside of attention; those inside have 1e-5
LARGEST_SCALE = 20.0  # of cosines
GUARD = 2  # last tokens of a chunk, to which every trajectory attends so that none attends to nothing
ROTARY_BASE = 10_000.0

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Segmentation:
    """Trajectories of a chunk.

    Attributes:
        trajectories: (M, D) states of the trajectories.
        logits: (N, M) of the memberships of tokens.
    """

    trajectories: Tensor
    logits: Tensor

    @property
    def label(self) -> Tensor:
        """(N,) int64 trajectory of each token."""
        return self.logits.argmax(-1)

    @property
    def blocked(self) -> Tensor:
        """(M, N) bool, tokens to which a trajectory does not attend; the last ones are open to all."""
        blocked = self.label != torch.arange(self.logits.shape[1])[:, None]
        blocked[:, -GUARD:] = False
        return blocked

    def soft_means(self, x: Tensor) -> Tensor:
        """Return the (M, V) means of (N, V) tokens, weighted by the softmax over the trajectories."""
        membership = self.logits.softmax(-1).T
        return membership / (membership.sum(-1, keepdim=True) + 1e-6) @ x


def find_trajectories(x: Tensor, weights: Weights, layers: int) -> Segmentation:
    """Find the trajectories of a chunk.

    Args:
        x: (N, D) features of the segmenter.
        weights: of the segmenter.
        layers: number of layers of the perceiver.
    """
    perceiver = "trajectory_perceiver."
    context, states = _norm(x, weights, f"{perceiver}norm_ctx"), weights[f"{perceiver}latents"]
    for i in range(layers):
        name = f"{perceiver}layers.{i}"
        states = _norm(states, weights, f"{perceiver}norm_lat")  # also what the layer adds to
        own = _norm(states, weights, f"{name}.0.norm_latents", 1e-5)
        keys = torch.cat([own, _norm(context, weights, f"{name}.0.norm_media", 1e-5)])
        frequencies = weights[f"{name}.0.rotary_emb.freqs"]
        query, key, value = _projections(own, keys, weights, f"{name}.0", SEGMENTER_HEADS)
        query, key = (_rotate(part, torch.arange(part.shape[1]), frequencies) for part in (query, key))
        states = states + _attend(query, key, value, weights, f"{name}.0")
        states = states + _feed_forward(states, weights, f"{name}.1")
    scale = (F.softplus(weights["log_scale"]) + 1).clamp_max(LARGEST_SCALE)
    tokens = F.normalize(_two_layers(x, weights, "patch_decoder_low_res"), dim=-1)
    wanted = F.normalize(_two_layers(states, weights, "traj_seg_head_low_res"), dim=-1)
    return Segmentation(states, scale * tokens @ wanted.T)


def pool_trajectories(
    x: Tensor, grid: tuple[int, int, int], found: Segmentation, weights: Weights, layers: int, heads: int
) -> Tensor:
    """Return the (M, V) tokens of the trajectories of a chunk, which attend to the tokens with their label.

    Args:
        x: (N, V) features.
        grid: (T, R, R) of the tokens.
        found: trajectories of the chunk.
        weights: ``query_proj`` and ``pool``.
        layers: number of layers.
        heads: number of attention heads.
    """
    context, states = _norm(x, weights, "pool.norm_ctx"), _linear(found.trajectories, weights, "query_proj")
    places = torch.cartesian_prod(*(torch.arange(size) for size in grid))
    for i in range(layers):
        name = f"pool.layers.{i}"
        states = _norm(states, weights, "pool.norm_lat")
        query, key, value = _projections(states, context, weights, f"{name}.0", heads)
        key = _rotate_places(key, places)
        states = states + _attend(query, key, value, weights, f"{name}.0", found.blocked)
        states = states + _feed_forward(states, weights, f"{name}.1")
    return states


def _projections(queries: Tensor, keys: Tensor, weights: Weights, name: str, heads: int) -> tuple[Tensor, ...]:
    """Return (h, M, d) queries, and (h, L, d) keys and values."""
    query = _linear(queries, weights, f"{name}.to_q")
    parts = (query, *_linear(keys, weights, f"{name}.to_kv").chunk(2, -1))
    return tuple(part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in parts)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, weights: Weights, name: str, blocked: Tensor | None = None
) -> Tensor:
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if blocked is not None:
        logits = logits.masked_fill(blocked, -torch.inf)
    return _linear((logits.softmax(-1) @ value).transpose(0, 1).flatten(1), weights, f"{name}.to_out")


def _rotate_places(key: Tensor, places: Tensor) -> Tensor:
    """Rotate three equal parts of the channels of (h, N, d) keys by time, row and column; queries are not rotated."""
    channels = key.shape[-1] // 12 * 6 // 3
    frequencies = ROTARY_BASE ** -(torch.arange(channels // 2) / (channels // 2))
    parts = key.split([channels, channels, channels, key.shape[-1] - 3 * channels], -1)
    rotated = [_rotate(part, places[:, axis], frequencies) for axis, part in enumerate(parts[:3])]
    return torch.cat([*rotated, parts[3]], -1)


def _rotate(x: Tensor, position: Tensor, frequencies: Tensor) -> Tensor:
    """Rotate neighbouring channels of (h, L, d) by position times frequency; channels without a frequency stay."""
    angle = position[:, None] * frequencies
    even, odd, rest = x[..., : 2 * len(frequencies) : 2], x[..., 1 : 2 * len(frequencies) : 2], 2 * len(frequencies)
    turned = [even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()]
    return torch.cat([torch.stack(turned, -1).flatten(-2), x[..., rest:]], -1)


def _feed_forward(x: Tensor, weights: Weights, name: str) -> Tensor:
    normed = _norm(x, weights, f"{name}.norm")
    gate = F.silu(_linear(normed, weights, f"{name}.gate"))
    return _linear(gate * _linear(normed, weights, f"{name}.up"), weights, f"{name}.down")


def _two_layers(x: Tensor, weights: Weights, name: str) -> Tensor:
    return _linear(F.relu(_linear(x, weights, f"{name}.0")), weights, f"{name}.2")


def _linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _norm(x: Tensor, weights: Weights, name: str, eps: float = EPS) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)
