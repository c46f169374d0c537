"""Mamba-2 block in plain PyTorch: state-space duality as matrix products over chunks (arXiv 2405.21060).

Parameters have the names and shapes of ``mamba_ssm.Mamba2`` and of ``Mamba2Mixer`` in transformers, so that state dicts
load strictly in both directions. The scan of CUDA tensors uses the kernel of mamba-ssm if it is installed. The device
of the tensors decides, because mamba-ssm may be importable on a machine that cannot run it.

Dimensions: B batch, L length, D width, h heads of width p, n state, g groups of heads that share B and C, q chunk.
"""

from __future__ import annotations

import importlib.util
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from framefold.errors import ConfigError

# Parameters of mamba_ssm.Mamba2 that are not implemented, and their values that have no effect.
UNSUPPORTED_DEFAULTS = {
    "d_ssm": None,
    "conv_init": None,
    "process_group": None,
    "sequence_parallel": True,
    "use_mem_eff_path": True,
    "layer_idx": None,
}

CHUNK = 64  # on a CPU, longer chunks are slower: 256 takes three times as long


def state_space_scan(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Compute the state-space scan s_t = exp(dt_t A) s_{t-1} + dt_t b_t x_t', y_t = s_t c_t, chunk by chunk.

    Within a chunk it is attention with decaying weights; between chunks it is a recurrence over their states.

    Args:
        x: (B, L, h, p) inputs.
        dt: (B, L, h) positive steps.
        decay: (h,) negative A.
        b: (B, L, g, n) input projections.
        c: (B, L, g, n) output projections.
        chunk: q; the result does not depend on it.

    Returns:
        (B, L, h, p) outputs, and the (B, h, p, n) state after the last step.
    """
    batch, length, heads, width = x.shape
    groups, state = b.shape[2:]
    pad = -length % chunk  # padded steps have length 0 and do not change the state

    def chunks(value: Tensor, *shape: int) -> Tensor:  # (B, L, ...) -> (B, chunks, ..., q, last)
        value = F.pad(value.flatten(2), (0, 0, 0, pad)).unflatten(1, (-1, chunk)).unflatten(-1, shape)
        return value.movedim(2, -2)

    per = heads // groups
    a = chunks(dt * decay, groups, per, 1)[..., 0].cumsum(-1)  # (B, chunks, g, per, q) log decay since chunk start
    scaled = chunks(x * dt[..., None], groups, per, width)
    into, out = chunks(b, groups, 1, state), chunks(c, groups, 1, state)

    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    weight = (a[..., :, None] - a[..., None, :]).masked_fill(future, -torch.inf).exp()  # masked before exp: no inf * 0
    y = (out @ into.transpose(-1, -2) * weight) @ scaled

    remaining = (a[..., -1:] - a).exp()[..., None]  # weight of each step at the end of its chunk
    added, chunk_decay = (scaled * remaining).transpose(-1, -2) @ into, a[..., -1].exp()[..., None, None]
    states, current = [], x.new_zeros(batch, groups, per, width, state)
    for number in range(added.shape[1]):  # hundreds of small steps; one matrix over all chunks would be slower
        states.append(current)
        current = current * chunk_decay[:, number] + added[:, number]
    y = y + (out @ torch.stack(states, 1).transpose(-1, -2)) * a.exp()[..., None]
    y = y.movedim(-2, 2).flatten(3, 4).flatten(1, 2)
    return y[:, :length], current.flatten(1, 2)


class GatedNorm(nn.Module):
    """RMS norm over each group of channels, with multiplication by silu(z) before or after the norm."""

    def __init__(self, width: int, groups: int, before_gate: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.before_gate, self.eps = groups, before_gate, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gate = F.silu(z)
        y = y if self.before_gate else y * gate
        parts = y.unflatten(-1, (self.groups, -1))
        y = (parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)).flatten(-2) * self.weight
        return y * gate if self.before_gate else y


class Mamba2(nn.Module):
    """Mamba-2 mixer, (B, L, D) -> (B, L, D), causal along L.

    Args:
        d_model: D.
        d_state: n.
        d_conv: kernel size of the convolution.
        expand: inner width / D.
        headdim: p.
        ngroups: g.
        A_init_range: range of the initial decays.
        D_has_hdim: one skip weight per channel instead of per head.
        rmsnorm: apply a gated norm before the output projection.
        norm_before_gate: apply the norm before the gate.
        dt_min: lower end of the initial steps.
        dt_max: upper end of the initial steps.
        dt_init_floor: minimum of the initial steps.
        dt_limit: limits to which steps are clamped.
        bias: biases of the projections.
        conv_bias: bias of the convolution.
        chunk_size: q of the scan.
        checkpointing: recompute the scan in the backward pass instead of storing its activations.
        unsupported: further parameters of mamba-ssm, such as ``d_ssm``; refused unless their value has no effect.

    Raises:
        ConfigError: widths that do not divide, numbers out of range, or a parameter that only mamba-ssm supports.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        A_init_range: tuple[float, float] = (1, 16),
        D_has_hdim: bool = False,
        rmsnorm: bool = True,
        norm_before_gate: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init_floor: float = 1e-4,
        dt_limit: tuple[float, float] = (0.0, math.inf),
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = CHUNK,
        checkpointing: bool = False,
        **unsupported: Any,
    ) -> None:
        super().__init__()
        inner = expand * d_model
        for name, value in unsupported.items():
            has_no_effect = name in UNSUPPORTED_DEFAULTS and value == UNSUPPORTED_DEFAULTS[name]
            if not has_no_effect and (name, value) != ("d_ssm", inner):
                raise ConfigError(f"mamba2: {name}={value!r} is not supported by this implementation")
        if min(d_model, d_state, d_conv, expand, headdim, ngroups, chunk_size) < 1 or inner % headdim:
            raise ConfigError(
                f"mamba2: expand * d_model = {inner} must be a multiple of headdim {headdim}, and all sizes positive"
            )
        heads = inner // headdim
        if heads % ngroups:
            raise ConfigError(f"mamba2: {heads} heads are not divisible into {ngroups} groups")
        self.inner, self.heads, self.state, self.groups = inner, heads, d_state, ngroups
        self.dt_limit, self.chunk_size, self.checkpointing = tuple(dt_limit), chunk_size, checkpointing
        channels = inner + 2 * ngroups * d_state
        self.in_proj = nn.Linear(d_model, inner + channels + heads, bias=bias)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1, bias=conv_bias)
        step = torch.exp(torch.rand(heads) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min))
        step = step.clamp(min=dt_init_floor)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*A_init_range).log())
        self.D = nn.Parameter(torch.ones(inner if D_has_hdim else heads))
        self.norm = GatedNorm(inner, ngroups, norm_before_gate) if rmsnorm else None
        self.out_proj = nn.Linear(inner, d_model, bias=bias)
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, u: Tensor) -> Tensor:
        z, mixed, dt = self.in_proj(u).split([self.inner, self.conv1d.in_channels, self.heads], dim=-1)
        mixed = F.silu(self.conv1d(mixed.transpose(1, 2))[..., : u.shape[1]].transpose(1, 2))
        shared = self.groups * self.state
        x, b, c = mixed.split([self.inner, shared, shared], dim=-1)
        x = x.unflatten(-1, (self.heads, -1))
        b, c = (part.unflatten(-1, (self.groups, -1)) for part in (b, c))
        y = self._mix(x, dt, b, c).flatten(2).to(z.dtype)
        y = self.norm(y, z) if self.norm is not None else y * F.silu(z)
        return self.out_proj(y.to(z.dtype))

    def _mix(self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Apply the scan and the skip connection in fp32 or wider."""
        wide = torch.promote_types(x.dtype, torch.float32)
        skip = self.D.to(wide).view(self.heads, -1)
        decay = -self.A_log.to(wide).exp()
        with torch.autocast(x.device.type, enabled=False):
            if x.is_cuda and importlib.util.find_spec("mamba_ssm") is not None:
                return _kernel(x, dt, decay, b, c, self.dt_bias, self.dt_limit, self.chunk_size) + skip * x.to(wide)
            step = F.softplus(dt.to(wide) + self.dt_bias.to(wide)).clamp(*self.dt_limit)
            values = x.to(wide), step, decay, b.to(wide), c.to(wide), self.chunk_size
            if self.checkpointing and torch.is_grad_enabled():
                y, _ = checkpoint(state_space_scan, *values, use_reentrant=False)
            else:
                y, _ = state_space_scan(*values)
            return y + skip * x.to(wide)


def _kernel(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, bias: Tensor, limit: tuple[float, ...], chunk: int
) -> Tensor:
    """Run the scan kernel of mamba-ssm, for CUDA tensors."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x, dt, decay, b, c, chunk, dt_bias=bias, dt_softplus=True, dt_limit=limit)
