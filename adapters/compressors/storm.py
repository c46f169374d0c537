"""STORM: a Mamba encoder over the whole video, followed by pooling (arXiv 2503.04130)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from framefold.adapters.base.merger import merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.sizes import check_sizes, inner_width
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.core.width import matching_width
from framefold.adapters.layers.bidirectional_mamba import BidirectionalMambaLayer, Scan, scan_orders
from framefold.adapters.ops.partition import split_runs
from framefold.errors import ConfigError

from .pool import Pool

EPS = 1e-12  # small, because the scale of features differs between hosts by orders of magnitude


class STORM(Pool):
    """Adds context to each token with a scan over all tokens, then pools as ``pool`` does.

    Each layer adds a forward and a backward Mamba-2 scan of its normalized input. The paper scans with Mamba; its
    claims do not depend on version 1, and version 2 consists of matrix products. The last linear layer before the
    pooling starts at zero, so that an untrained model equals ``pool`` bit by bit; the paper starts with random weights
    and corrects them in a first training stage.

    Each token is divided by its RMS before the layers, and changes are multiplied by it, so that one learning rate
    suits hosts of any scale.

    The rule for exactly k tokens is that of ``pool``, which chooses the length of the averaged runs of frames from k
    and ``spatial``. With ``sample`` = s > 1, which is for inference only, frames are pooled into s times as many runs
    (at most one per frame), and every s-th run is kept, starting with the first. The scan has carried information from
    the dropped runs into their neighbours.

    Args:
        budget: retention ratio or tokens per video.
        spatial: see :class:`~framefold.adapters.compressors.pool.Pool`.
        sample: s, see above.
        layers: number of layers.
        inner: width of the layers, between two linear layers; None: D itself below 1024, otherwise 512.
        scan: order of the tokens: "raster" (the paper), "temporal", "snake" or "alternating", see
            :func:`~framefold.adapters.layers.bidirectional_mamba.scan_orders`.
        causal: forward scans only, for streaming.
        d_state: see :class:`~framefold.adapters.layers.mamba2.Mamba2`.
        d_conv: see :class:`~framefold.adapters.layers.mamba2.Mamba2`.
        expand: see :class:`~framefold.adapters.layers.mamba2.Mamba2`.
        headdim: see :class:`~framefold.adapters.layers.mamba2.Mamba2`.
        ngroups: see :class:`~framefold.adapters.layers.mamba2.Mamba2`.
        checkpointing: recompute scans in the backward pass instead of storing their activations.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter is out of range, or ``sample`` is set during training.
        InputError: the width of the video differs from that of the weights.
    """

    name = "storm"
    paper = "STORM, arXiv 2503.04130"
    keeps = "means over time and space after a Mamba scan of the whole video"
    cost = "layers * (two Mamba-2 scans and four matrix products) over all tokens"
    trainable: ClassVar[bool] = True
    encodes: ClassVar[bool] = True
    counterpart = "pool"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        spatial: int = 1,
        sample: int = 1,
        layers: int = 2,
        inner: int | None = None,
        scan: Scan = "raster",
        causal: bool = False,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        checkpointing: bool = False,
        dim: int | None = None,
    ) -> None:
        super().__init__(budget, spatial=spatial)
        if scan not in (scans := get_args(Scan)):
            raise ConfigError(f"storm: scan must be one of {', '.join(scans)}, got {scan!r}")
        self.sample, self.layers, self.inner, self.scan, self.causal = sample, layers, inner, scan, causal
        self.d_state, self.d_conv, self.expand, self.headdim, self.ngroups = d_state, d_conv, expand, headdim, ngroups
        self.checkpointing, self.dim = checkpointing, dim
        sizes = ("sample", "layers", "inner", "dim", "d_state", "d_conv", "expand", "headdim", "ngroups")
        check_sizes(self.name, **{key: getattr(self, key) for key in sizes})
        self.mixing: nn.ModuleList | None = None
        self.down: nn.Linear | None = None
        self.up: nn.Linear | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = matching_width(self.name, self.dim, width)
        if self.mixing is not None:
            return
        self.inner = inner_width(self.inner, width)
        names = ("d_state", "d_conv", "expand", "ngroups", "checkpointing")
        mixer: dict[str, Any] = {name: getattr(self, name) for name in names}
        mixer["headdim"] = min(self.headdim, self.expand * self.inner)
        narrow = self.inner != width
        layers = [BidirectionalMambaLayer(self.inner, self.causal, not narrow, **mixer) for _ in range(self.layers)]
        self.mixing = nn.ModuleList(layers)
        if narrow:
            self.down, self.up = nn.Linear(width, self.inner), nn.Linear(self.inner, width)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
        self.to(device)

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        assert self.mixing is not None  # created by materialize()
        orders = scan_orders(video.grid, self.scan, self.layers, video.features.device)
        wide = video.features.to(torch.promote_types(video.features.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add(EPS).sqrt()
        start = (wide / scale).to(next(self.mixing.parameters()).dtype)[None]
        x = start if self.down is None else self.down(start)
        for layer, order in zip(self.mixing, orders, strict=True):
            x = layer(x) if order is None else layer(x[:, order])[:, order.argsort()]
        change = (x - start if self.up is None else self.up(x))[0].to(wide.dtype) * scale
        return replace(video, features=video.features + change.to(video.features.dtype))

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if self.sample > 1 and self.training:
            raise ConfigError(
                f"storm: sample={self.sample} is for inference only: train with sample=1 and set it afterwards"
            )
        return merge(self.encode(video), self.assign(video, k, query), k)

    def runs(self, frames: int, count: int, device: torch.device | None = None) -> Tensor:
        step = min(self.sample, frames // count)
        run = split_runs(frames, count * step, device)
        return torch.where(run % step == 0, run // step, -1)
