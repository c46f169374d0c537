"""PVC: causal attention over time and details of cells before pooling (arXiv 2412.09613)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from framefold.adapters.base.merger import merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import check_sizes, inner_width
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.causal_attention import CausalTimeAttention
from framefold.adapters.layers.time_encoding import SECOND_FEATURES, second_features

from .pool import Pool

EPS = 1e-24  # small, because the scale of features differs between hosts by orders of magnitude


class PVC(Pool):
    """Encodes each frame given the earlier ones, then averages as ``pool`` does.

    Each layer is attention of a token to those at its place in its own frame and in earlier ones, modulated by the time
    in seconds. With ``spatial`` = p > 1, a linear function of the differences between the p x p tokens of a cell and
    their mean is then added to all of them, so that their mean keeps details of the cell. Zero layers make an untrained
    model equal to ``pool`` bit by bit. No token depends on later frames, so that frames can be encoded as they arrive.

    In the paper, the attention is part of the last layers of the vision encoder, cells are joined by a pixel shuffle to
    a fixed number of tokens for each frame, and images are repeated as short videos.

    Each token is divided by its RMS before the layers, and changes are multiplied by it.

    Args:
        budget: retention ratio or tokens per video.
        spatial: see :class:`~framefold.adapters.compressors.pool.Pool`; also the side of the cells whose details are
            kept.
        layers: number of layers of attention.
        inner: width of the layers, between two linear layers; None: D itself below 1024, otherwise 512.
        heads: number of attention heads; None: one per 64 channels of a layer.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range.
        InputError: the width of the video differs from that of the weights.
    """

    name = "pvc"
    paper = "PVC, arXiv 2412.09613"
    keeps = "means over time and space after attention of each place to earlier frames"
    cost = "layers * (four products per token and T^2 pairs per place), and one product per cell"
    growth = "quadratic"
    deviations = (
        "behind the projector instead of inside the vision encoder; any budget instead of 64 tokens for each frame; "
        "adds details of cells to their means instead of a pixel shuffle; times in seconds instead of relative ones; "
        "no repetition of images"
    )
    trainable: ClassVar[bool] = True
    encodes: ClassVar[bool] = True
    counterpart = "pool"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        spatial: int = 1,
        layers: int = 1,
        inner: int | None = None,
        heads: int | None = None,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget, spatial=spatial)
        self.layers, self.inner, self.heads, self.dim = layers, inner, heads, dim
        check_sizes(self.name, spatial=spatial, layers=layers, inner=inner, heads=heads, dim=dim)
        self.attention: nn.ModuleList | None = None
        self.down: nn.Linear | None = None
        self.up: nn.Linear | None = None
        self.details: nn.Linear | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.attention is not None:
            return
        self.inner = inner_width(self.inner, width)
        self.heads = self.heads or max(1, self.inner // 64)
        narrow = self.inner != width
        sizes = (self.inner, self.heads, SECOND_FEATURES, not narrow)
        self.attention = nn.ModuleList(CausalTimeAttention(*sizes) for _ in range(self.layers))
        if narrow:
            self.down, self.up = nn.Linear(width, self.inner), nn.Linear(self.inner, width, bias=False)
            nn.init.zeros_(self.up.weight)
        if self.spatial > 1:
            self.details = nn.Linear(self.spatial**2 * self.inner, self.inner, bias=False)
            if not narrow:
                nn.init.zeros_(self.details.weight)
        self.to(device)

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        assert self.attention is not None  # created by materialize()
        wide = video.features.to(torch.promote_types(video.features.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add(EPS).sqrt()
        dtype = next(self.attention.parameters()).dtype
        start = (wide / scale).to(dtype).unflatten(0, (video.grid[0], video.per_frame))
        times = second_features(video)[:: video.per_frame].to(dtype)
        x = first = start if self.down is None else self.down(start)
        for layer in self.attention:
            x = layer(x, times)
        if self.details is not None:
            x = x + self.cell_details(x.unflatten(1, video.grid[1:])).flatten(1, 2)
        change = (x - first if self.up is None else self.up(x - first)).flatten(0, 1).to(wide.dtype) * scale
        return replace(video, features=video.features + change.to(video.features.dtype))

    def cell_details(self, x: Tensor) -> Tensor:
        """Return (T, H, W, C), for each token the linear function of the differences in its cell.

        Incomplete cells at the lower and right borders have differences of 0 for what they lack.

        Args:
            x: (T, H, W, C).
        """
        assert self.details is not None
        height, width = x.shape[1:3]
        p = self.spatial
        rows, columns = -(-height // p), -(-width // p)
        inside = x.new_ones(height, width, 1)
        cells, member = (self._cells(one, rows * p - height, columns * p - width) for one in (x, inside[None]))
        mean = cells.sum(-2, keepdim=True) / member.sum(-2, keepdim=True)
        details = self.details(((cells - mean) * member).flatten(-2)).to(x.dtype)
        return details.repeat_interleave(p, 1).repeat_interleave(p, 2)[:, :height, :width]

    def _cells(self, x: Tensor, below: int, right: int) -> Tensor:
        """Return (T, rows, columns, p * p, C) cells of (T, H, W, C), filled up with zeros."""
        padded = nn.functional.pad(x, (0, 0, 0, right, 0, below))
        cells = padded.unflatten(2, (-1, self.spatial)).unflatten(1, (-1, self.spatial))
        return cells.movedim(2, 3).flatten(3, 4)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        return merge(self.encode(video), self.assign(video, k, query), k)
