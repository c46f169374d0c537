"""Golden files of VTG-LLM: slots with their gradients, times of tokens, filled tables, and codes with gradients."""

from __future__ import annotations

from typing import Any

import torch

from framefold.adapters.reference import vtgllm

ATOL = 1e-5


def check(data: Any) -> None:
    """Check a file of slots alone, or of times, tables and codes."""
    golden = {name: torch.from_numpy(data[name]) for name in data if data[name].dtype.kind in "fi"}
    if "X" in golden:
        return check_slots(golden)
    check_chain({name.removeprefix("chain__"): value for name, value in golden.items()})
    check_codes({name.removeprefix("codebook__"): value for name, value in golden.items()})
    for name in ("fill_inside", "fill_ends"):
        before = golden[f"{name}__before"]
        assert (before == 0).all(1).nonzero()[:, 0].tolist() == golden[f"{name}__untrained"].tolist()
        _close(vtgllm.filled_table(before), golden[f"{name}__after"])
    return None


def check_slots(golden: dict[str, torch.Tensor]) -> None:
    x, slots = (golden[name].clone().requires_grad_() for name in ("X", "slots"))
    out = vtgllm.slot_tokens(x, slots)
    _close(out, golden["Y"])
    out.square().mean().backward()
    _close(slots.grad, golden["grad_slots"])
    _close(x.grad, golden["grad_X"])


def check_chain(golden: dict[str, torch.Tensor]) -> None:
    names = ("tokens", "seconds", "frame_table", "time_table")
    timed = vtgllm.timed_tokens(*(golden[name] for name in names))
    _close(timed, golden["with_time"])
    _close(timed - golden["tokens"], golden["position"].expand_as(timed))
    _close(vtgllm.slot_tokens(timed.flatten(1, 2), golden["slots"]), golden["out"])


def check_codes(golden: dict[str, torch.Tensor]) -> None:
    tokens, codes = (golden[name].clone().requires_grad_() for name in ("tokens", "codes"))
    out, loss = vtgllm.nearest_tokens(tokens, codes)
    _close(out, golden["out"])
    _close(loss, golden["loss"])
    (loss + (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()).backward()
    _close(codes.grad, golden["grad_codes"])
    _close(tokens.grad, golden["grad_tokens"])


def _close(found: torch.Tensor | None, golden: torch.Tensor) -> None:
    assert found is not None
    torch.testing.assert_close(found, golden, rtol=0, atol=ATOL)
