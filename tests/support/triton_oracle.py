"""Our Mamba-2 block beside mamba-ssm's own Triton kernels, run on a CPU by Triton's interpreter.

A script for a process of its own (``tests/adapters/layers/test_mamba2_triton.py`` starts it): what it does to torch
and triton is global,
and mamba-ssm that can be imported misleads other libraries about the machine. Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

Named = dict[str, Tensor]

# batch, length, heads, p, groups, n, chunk, limits of the steps
SCANS: dict[str, tuple[int, int, int, int, int, int, int, tuple[float, float]]] = {
    "one chunk": (1, 32, 2, 16, 1, 16, 32, (0.0, float("inf"))),
    "odd length, two groups": (2, 75, 4, 16, 2, 16, 32, (0.0, float("inf"))),
    "limited steps": (1, 45, 2, 8, 1, 16, 16, (0.3, 0.9)),
}
BLOCKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two groups, biases": {"ngroups": 2, "bias": True},
    "no bias at all": {"conv_bias": False, "d_conv": 3},
    "skip a channel, norm first": {"D_has_hdim": True, "norm_before_gate": True, "ngroups": 2},
    "limited steps": {"dt_limit": (0.02, 0.05)},
    "no norm": {"rmsnorm": False, "D_has_hdim": True, "bias": True},
}


def prepare_for_a_cpu() -> None:
    """What mamba-ssm asks of CUDA at import and around a launch; the kernels themselves stay as they are."""
    for name in ("selective_scan_cuda", "causal_conv1d_cuda"):
        sys.modules[name] = types.ModuleType(name)
    torch.cuda.device = lambda *_: contextlib.nullcontext()  # type: ignore[assignment, misc]
    torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=1)  # type: ignore[assignment]
    tuned = triton.autotune

    def smallest(configs: list[Any], *arguments: Any, **more: Any) -> Any:  # a choice of two would be timed on a GPU
        return tuned([min(configs, key=lambda one: sum(one.kwargs.values()))], *arguments, **more)

    triton.autotune = smallest


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def errors(ours: Named, theirs: Named) -> dict[str, float]:
    """Largest difference of each tensor, relative to the largest magnitude of theirs."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].shape == value.shape and value.abs().max() > 0, name
    return {name: float((ours[name] - value).abs().max() / value.abs().max()) for name, value in theirs.items()}


def with_gradients(call: Callable[[Named], Named], inputs: Mapping[str, Tensor]) -> Named:
    """The outputs of a call and the gradients of all its inputs, for a fixed random direction of each output."""
    leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    outputs = call(leaves)
    directions = [noise(*value.shape, seed=90 + i) for i, value in enumerate(outputs.values())]
    torch.autograd.backward(list(outputs.values()), directions)
    found = {f"d {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    assert len(found) == len(leaves)
    return {name: value.detach() for name, value in outputs.items()} | found


def compare_scans(case: tuple[Any, ...]) -> dict[str, float]:
    """The bare scan with its last state, and the call that we make for CUDA tensors."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    from framefold.adapters.layers import mamba2 as ssm

    batch, length, heads, p, groups, n, chunk, limit = case
    shapes = {"x": (batch, length, heads, p), "dt": (batch, length, heads), "decay": (heads,),
              "b": (batch, length, groups, n), "c": (batch, length, groups, n)}  # fmt: skip
    raw = {name: noise(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    raw["decay"] = -raw["decay"].exp()
    ready = raw | {"dt": F.softplus(raw["dt"])}

    def theirs(v: Named) -> Named:
        last = {"return_final_states": True}
        y, state = mamba_chunk_scan_combined(v["x"], v["dt"], v["decay"], v["b"], v["c"], chunk, **last)
        return {"y": y, "state": state}

    def ours(v: Named) -> Named:
        y, state = ssm.state_space_scan(v["x"], v["dt"], v["decay"], v["b"], v["c"], chunk)
        return {"y": y, "state": state}

    def kernel(v: Named) -> Named:
        return {"y": ssm._kernel(v["x"], v["dt"], v["decay"], v["b"], v["c"], v["bias"], limit, chunk)}

    def plain(v: Named) -> Named:
        step = F.softplus(v["dt"] + v["bias"]).clamp(*limit)
        return {"y": ssm.state_space_scan(v["x"], step, v["decay"], v["b"], v["c"], chunk)[0]}

    biased = raw | {"bias": noise(heads, seed=9)}
    call = errors(with_gradients(plain, biased), with_gradients(kernel, biased))
    return errors(with_gradients(ours, ready), with_gradients(theirs, ready)) | {
        f"call: {k}": v for k, v in call.items()
    }


def compare_blocks(arguments: dict[str, Any]) -> dict[str, float]:
    """Our module and the genuine one; the weights go from a genuine one to ours and on to another, strictly."""
    from mamba_ssm import Mamba2 as Genuine

    from framefold.adapters.layers.mamba2 import Mamba2

    sizes = {"d_model": 16, "d_state": 16, "headdim": 8, "chunk_size": 16} | arguments
    torch.manual_seed(0)
    source, ours, theirs = Genuine(**sizes), Mamba2(**sizes), Genuine(**sizes, use_mem_eff_path=False)
    for i, parameter in enumerate(source.parameters()):
        parameter.data += 0.1 * noise(*parameter.shape, seed=20 + i)  # else D and the norm are all ones
    ours.load_state_dict(source.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    found = []
    for block in (ours, theirs):
        values = with_gradients(lambda v, block=block: {"y": block(v["u"])}, {"u": noise(2, 37, 16, seed=3)})
        gradients = {f"d {name}": value.grad for name, value in block.named_parameters() if value.grad is not None}
        assert len(gradients) == len(block.state_dict())
        found.append(values | gradients)
    return errors(*found)


def main() -> None:
    prepare_for_a_cpu()
    import mamba_ssm
    from mamba_ssm.ops.triton import ssd_chunk_scan

    kernel: Any = ssd_chunk_scan._chunk_scan_fwd_kernel
    while not isinstance(kernel, triton.runtime.interpreter.InterpretedFunction):
        kernel = kernel.fn  # what autotune wraps; AttributeError where the kernel is not interpreted
    report = {f"scan, {name}": compare_scans(case) for name, case in SCANS.items()}
    report |= {f"block, {name}": compare_blocks(arguments) for name, arguments in BLOCKS.items()}
    told = {"triton": triton.__version__, "mamba_ssm": mamba_ssm.__version__, "folder": mamba_ssm.__path__[0]}
    print(json.dumps(told | {"errors": report}))


if __name__ == "__main__":
    main()
