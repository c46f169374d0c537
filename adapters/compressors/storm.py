"""STORM: a Mamba encoder over the whole video in front of plain pooling (arXiv 2503.04130)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from framefold.adapters.base.merger import merge
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.layers.bidirectional_mamba import Order, ScanLayer, scan_order
from framefold.adapters.ops.partition import split_runs
from framefold.errors import ConfigError, InputError

from .pool import Pool

WIDE = 1024  # from this width on, layers work in a bottleneck of BOTTLENECK channels unless ``inner`` says otherwise

BOTTLENECK = 512

EPS = 1e-12  # hosts' features differ in scale by orders of magnitude, and the smaller ones are not noise

MOST = 2**16  # of any size: a config must not ask for billions


class STORM(Pool):
    """Writes what happens around a token into it with a scan over all tokens, then pools as ``pool`` does.

    Each layer adds a forward and a backward Mamba-2 scan of its normalised input (the paper scans with Mamba; nothing
    in its claim rests on version 1, and version 2 is matrix products). The last linear before the pooling starts at
    zero, so untrained it is ``pool`` to the bit; the paper starts at random and repairs that in a first stage.

    Tokens enter and changes leave in units of each token's RMS, so that one learning rate suits hosts of any scale.

    Rule for exactly k tokens: that of ``pool``, which chooses the length of the averaged runs of frames from k and
    ``spatial``. With ``sample`` = s > 1, which is for inference only, frames are pooled into s times as many runs (as
    far as there are frames) and every s-th run is kept, from the first on; what a run that is left out showed, the scan
    has written into its neighbours.

    Args:
        budget: retention ratio or tokens per video.
        spatial: side p of the cells of a frame that are averaged, in tokens; 1 pools over time only.
        sample: s, see above.
        layers: number of layers.
        inner: width in which the layers work, between two linears; None: D itself below 1024, 512 from there on.
        scan: order of the tokens: "raster" (the paper), "temporal" or "snake", see
            :func:`~framefold.adapters.layers.bidirectional_mamba.scan_order`.
        causal: forward scans only, for streams.
        d_state, d_conv, expand, headdim, ngroups: of the mixers, see :class:`~framefold.adapters.layers.mamba2.Mamba2`.
        checkpointing: recompute scans in the backward instead of keeping their activations.
        dim: token width D; None: that of the first video.

    Raises:
        ConfigError: a parameter out of range, or sampling while training.
        InputError: the video has another width than the weights.
    """

    name = "storm"
    trainable: ClassVar[bool] = True
    encodes: ClassVar[bool] = True
    counterpart: ClassVar[str | None] = "pool"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        spatial: int = 1,
        sample: int = 1,
        layers: int = 2,
        inner: int | None = None,
        scan: Order = "raster",
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
        if scan not in ("raster", "temporal", "snake"):
            raise ConfigError(f"storm: scan must be 'raster', 'temporal' or 'snake', got {scan!r}")
        self.sample, self.layers, self.inner, self.scan, self.causal = sample, layers, inner, scan, causal
        self.d_state, self.d_conv, self.expand, self.headdim, self.ngroups = d_state, d_conv, expand, headdim, ngroups
        self.checkpointing, self.dim = checkpointing, dim
        for key in ("sample", "layers", "inner", "dim", "d_state", "d_conv", "expand", "headdim", "ngroups"):
            if (value := getattr(self, key)) is not None and not 1 <= value <= MOST:
                raise ConfigError(f"storm: {key} is out of range: {value}")
        self.mixing: nn.ModuleList | None = None
        self.down: nn.Linear | None = None
        self.up: nn.Linear | None = None
        if dim is not None:
            self.materialize(dim, (1, 1))

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        self.dim = self.dim or width
        if width != self.dim:
            raise InputError(f"storm has weights for tokens of width {self.dim}, the video has {width}")
        if self.mixing is not None:
            return
        self.inner = self.inner or (width if width < WIDE else BOTTLENECK)
        names = ("d_state", "d_conv", "expand", "ngroups", "checkpointing")
        mixer: dict[str, Any] = {name: getattr(self, name) for name in names}
        mixer["headdim"] = min(self.headdim, self.expand * self.inner)
        narrow = self.inner != width
        layers = [ScanLayer(self.inner, self.causal, not narrow, **mixer) for _ in range(self.layers)]
        self.mixing = nn.ModuleList(layers)
        if narrow:
            self.down, self.up = nn.Linear(width, self.inner), nn.Linear(self.inner, width)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)
        self.to(device)

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        assert self.mixing is not None  # materialize() comes first
        order = scan_order(video.grid, self.scan, video.features.device)
        wide = video.features[order].to(torch.promote_types(video.features.dtype, torch.float32))
        scale = wide.square().mean(-1, keepdim=True).add(EPS).sqrt()
        start = (wide / scale).to(next(self.mixing.parameters()).dtype)[None]
        x = start if self.down is None else self.down(start)
        for layer in self.mixing:
            x = layer(x)
        change = (x - start if self.up is None else self.up(x))[0].to(wide.dtype) * scale
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return replace(video, features=video.features + change[back].to(video.features.dtype))

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if self.sample > 1 and self.training:
            raise ConfigError(f"storm: sample={self.sample} is for inference: train with sample=1, set it afterwards")
        return merge(self.encode(video), self.assign(video, k, query), k)

    def runs(self, frames: int, count: int, device: torch.device | None = None) -> Tensor:
        step = min(self.sample, frames // count)
        run = split_runs(frames, count * step, device)
        return torch.where(run % step == 0, run // step, -1)
