"""The Mamba-2 block: its scan against the recurrence, and its weights in transformers' implementation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from transformers import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from framefold.adapters.layers import mamba2
from framefold.adapters.layers.mamba2 import Mamba2, state_space_scan
from framefold.errors import ConfigError
from tests.support.cases import case


def inputs(
    batch: int, length: int, heads: int, groups: int, p: int = 3, n: int = 4, seed: int = 0
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dt = F.softplus(noise(batch, length, heads))
    return noise(batch, length, heads, p), dt, -noise(heads).exp(), *(noise(batch, length, groups, n) for _ in "bc")


def step_by_step(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    heads, groups = x.shape[2], b.shape[2]
    b, c = (part.repeat_interleave(heads // groups, dim=2) for part in (b, c))
    state = x.new_zeros(len(x), heads, x.shape[3], b.shape[3])
    out = []
    for t in range(x.shape[1]):
        state = state * (dt[:, t] * decay).exp()[..., None, None]
        state = state + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        out.append((state * c[:, t, :, None, :]).sum(-1))
    return torch.stack(out, 1), state


@given(
    length=st.integers(1, 40), chunk=st.sampled_from([1, 3, 8, 64]), groups=st.sampled_from([1, 2]),
    batch=st.integers(1, 3), seed=st.integers(0, 100),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_scan_equals_the_recurrence_for_any_chunk(
    length: int, chunk: int, groups: int, batch: int, seed: int
) -> None:
    values = inputs(batch, length, 4, groups, seed=seed)
    y, state = state_space_scan(*values, chunk)
    expected, last = step_by_step(*values)
    torch.testing.assert_close(y, expected, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(state, last, atol=1e-11, rtol=1e-11)


def test_gradients_of_the_scan_in_double_precision() -> None:
    values = tuple(value.requires_grad_() for value in inputs(1, 7, 2, 1, p=2, n=2))
    assert torch.autograd.gradcheck(lambda *v: state_space_scan(*v, 3), values)


def test_gradients_are_finite_under_extreme_decay() -> None:
    x, dt, decay, b, c = inputs(1, 20, 2, 1)
    values = [value.float().requires_grad_() for value in (x, dt * 500, decay * 100, b, c)]
    y, _ = state_space_scan(*values, 8)
    y.sum().backward()
    assert y.isfinite().all() and all(value.grad.isfinite().all() for value in values)


def small(**more: Any) -> Mamba2:
    torch.manual_seed(0)
    return Mamba2(16, **{"d_state": 8, "headdim": 8, "chunk_size": 8} | more)


def test_the_block_is_causal() -> None:
    block, u = small(), torch.randn(2, 21, 16, generator=torch.Generator().manual_seed(1))
    later = u.clone()
    later[:, 13:] = 7
    y, other = block(u), block(later)
    torch.testing.assert_close(y[:, :13], other[:, :13])
    assert (y[:, 13:] - other[:, 13:]).abs().max() > 0.01


def test_weights_go_to_transformers_and_back() -> None:
    for bias in [False, True]:
        with case(bias):
            config = Mamba2Config(
                hidden_size=16, state_size=8, head_dim=8, num_heads=4, n_groups=2, expand=2, conv_kernel=4,
                use_bias=bias, chunk_size=8, num_hidden_layers=1, vocab_size=8,
            )  # fmt: skip
            theirs, ours = Mamba2Mixer(config, layer_idx=0), small(ngroups=2, bias=bias)
            u = torch.randn(2, 19, 16, generator=torch.Generator().manual_seed(1))
            ours.load_state_dict(theirs.state_dict(), strict=True)
            torch.testing.assert_close(ours(u), theirs(u), atol=2e-6, rtol=1e-5)
            again = Mamba2Mixer(config, layer_idx=0)
            again.load_state_dict(small(ngroups=2, bias=bias).state_dict(), strict=True)
            torch.testing.assert_close(again(u), small(ngroups=2, bias=bias)(u), atol=2e-6, rtol=1e-5)


def test_recomputing_the_scan_changes_no_gradient() -> None:
    u = torch.randn(1, 21, 16, generator=torch.Generator().manual_seed(1))
    gradients = []
    for checkpointing in (False, True):
        block = small(checkpointing=checkpointing)
        block(u).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in block.named_parameters()})
    for name, value in gradients[0].items():
        assert value is not None and value.abs().sum() > 0, name
        assert torch.equal(value, gradients[1][name])


def test_the_scan_stays_in_fp32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def spy(*values: Any) -> Any:
        seen.extend(value.dtype for value in values[:5])
        return state_space_scan(*values)

    monkeypatch.setattr(mamba2, "state_space_scan", spy)
    block, u = small(), torch.randn(1, 21, 16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = block(u)
    assert set(seen) == {torch.float32} and y.dtype == torch.bfloat16
    assert (y.float() - block(u)).abs().max() < 0.05 * block(u).abs().max()


def test_the_kernel_is_used_for_cuda_tensors_only(monkeypatch: pytest.MonkeyPatch) -> None:
    block, u = small(), torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1))
    expected = block(u)
    monkeypatch.setattr(mamba2.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(mamba2, "_kernel", lambda *args: pytest.fail("a CUDA kernel was called on the CPU"))
    assert torch.equal(block(u), expected)


def test_initial_steps_and_decays_are_in_their_ranges() -> None:
    block = small(d_state=8, headdim=1, dt_min=0.01, dt_max=0.02, A_init_range=(2, 3))
    steps, decays = F.softplus(block.dt_bias), block.A_log.exp()
    assert steps.min() > 0.0099 and steps.max() < 0.0201 and decays.min() >= 2 and decays.max() <= 3
    assert (block.D == 1).all()
    assert all(getattr(p, "_no_weight_decay", False) for p in (block.dt_bias, block.A_log, block.D))


def test_sizes_that_do_not_divide_are_refused() -> None:
    for arguments, message in [
        ({"headdim": 5}, "multiple of headdim"),
        ({"ngroups": 3}, "3 groups"),
        ({"d_state": 0}, "positive"),
    ]:
        with pytest.raises(ConfigError, match=message):
            small(**arguments)


def test_unsupported_settings_of_mamba_ssm_are_refused() -> None:
    for setting in [{"d_ssm": 16}, {"conv_init": 0.1}, {"process_group": "x"}, {"d_stat": 8}]:
        with pytest.raises(ConfigError, match=next(iter(setting))):
            Mamba2(32, headdim=8, **setting)


def test_settings_of_mamba_ssm_without_effect_are_accepted() -> None:
    Mamba2(32, headdim=8, d_ssm=64, conv_init=None, use_mem_eff_path=True, layer_idx=None)
