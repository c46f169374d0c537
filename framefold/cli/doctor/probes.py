"""Imports what may crash or hang, for ``framefold doctor``, in a process that may: :func:`main` is called in one.

Some packages are tried out as well, which gives further lines.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .rows import MAMBA, PACKAGES, Finding

Found = tuple[str, list[Finding]]  # what to add to the version, and further lines

GPUS, WIRE = "GPUs", "distributed"


def main(results: str, names: list[str]) -> None:
    """Import packages one after the other, and end after one that is broken: it may have left half of itself behind.

    Args:
        results: file that gets a line of JSON, [name, rows], once a package is through.
        names: of modules.
    """
    for name in names:
        rows = examine(name)
        with open(results, "a") as file:
            print(json.dumps([name, [asdict(row) for row in rows]]), file=file)
        if rows[0].state == "broken":
            return


def examine(name: str) -> list[Finding]:
    """The lines of a package: first its own, then what was tried out."""
    package = PACKAGES[name]
    version = package.version() or ""
    try:
        if name == "torchvision":
            return _torchvision()
        module = importlib.import_module(name)
        if getattr(module, "__file__", None) is None:  # any folder of that name, such as the one wandb leaves behind
            return [package.row("missing")]
        detail, more = TRIED[name](module) if name in TRIED else ("", [])
    except BaseException as error:  # a package may well call sys.exit
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        return [package.row("missing") if absent else package.row("broken", f"{version} {error_text(error)}".strip())]
    version = version or str(getattr(module, "__version__", ""))
    if package.too_old(version):
        return [package.row("broken", f"{version} is too old, {package.wanted()} is needed"), *more]
    return [package.row("found", f"{version}{detail and ', '}{detail}"), *more]


def error_text(error: BaseException) -> str:
    """Type and text of an error, not too long."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _torch(torch: Any) -> Found:
    built = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    lines = [_gpu(torch, i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not lines:
        why = f"torch is built for {built}, and finds none" if built else "torch is built for CPUs"
        disables, get = "trainer/gpu, trainer/deepspeed, GPU kernels", "a driver, and a torch built for it"
        lines = [Finding(GPUS, "GPU", "missing", why, disables, get)]
    return f"for {built or 'CPUs'}", [*lines, *_backends(torch)]


def _gpu(torch: Any, index: int) -> Finding:
    """One that adds two numbers is found; a driver too old, or a GPU that torch is not built for, fails there."""
    try:
        facts = torch.cuda.get_device_properties(index)
        free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(index))
        text = f"{facts.name}, {free:.0f} of {total:.0f} GiB free, compute capability {facts.major}.{facts.minor}"
        assert (torch.ones(2, device=f"cuda:{index}") + 1).tolist() == [2, 2]
    except Exception as error:
        advice = "nvidia-smi shows its state; a torch built for it: https://pytorch.org/get-started/locally"
        return Finding(GPUS, f"GPU {index}", "broken", error_text(error), "training on it", advice)
    if torch.version.cuda and facts.major < 8:
        return Finding(
            GPUS, f"GPU {index}", "low", text, "bf16 at speed: trainer/gpu asks for bf16-mixed", "Ampere or newer"
        )
    return Finding(GPUS, f"GPU {index}", "found", text)


def _backends(torch: Any) -> list[Finding]:
    import torch.distributed as wire

    if not wire.is_available():
        get = "a torch that is built with torch.distributed"
        return [Finding(WIRE, "torch.distributed", "missing", "", "more than one process, torchrun", get)]
    rows = []
    for name, there, disables in (
        ("gloo", wire.is_gloo_available(), "several processes on CPUs"),
        ("NCCL", wire.is_nccl_available(), "several GPUs"),
        (
            "MPI",
            wire.is_mpi_available(),
            "torch's own MPI backend; launch mpirun does without: its ranks use NCCL or gloo",
        ),
    ):
        version = ".".join(map(str, torch.cuda.nccl.version())) if name == "NCCL" and there else ""
        get = "a torch for CUDA" if name == "NCCL" else f"a torch that is built from source with {name}"
        rows.append(
            Finding(WIRE, name, "found", version) if there else Finding(WIRE, name, "missing", "", disables, get)
        )
    if rows[0].state == "found":
        rows[0] = _gloo(wire)
    return rows


def _gloo(wire: Any) -> Finding:
    """A group of one process: it fails where the machine cannot resolve its own name."""
    try:
        wire.init_process_group("gloo", store=wire.HashStore(), rank=0, world_size=1)
        wire.barrier()
        wire.destroy_process_group()
    except Exception as error:
        get = "GLOO_SOCKET_IFNAME=(an interface of 'ip addr'), or this machine's name in /etc/hosts"
        return Finding(WIRE, "gloo", "broken", error_text(error), "more than one process", get)
    return Finding(WIRE, "gloo", "found")


def _deepspeed(deepspeed: Any) -> Found:
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    built = sorted(name for name, done in installed_ops.items() if done)
    usable = {name: _compatible(builder) for name, builder in ALL_OPS.items() if name != "deepspeed_not_implemented"}
    lists = ("prebuilt", built), ("built when needed", sorted(n for n, yes in usable.items() if yes and n not in built))
    text = "; ".join(f"{label}: {', '.join(names)}" for label, names in lists if names)
    rows = [Finding("DeepSpeed", "ops", "found" if text else "missing", text)]
    for name, disables in (("cpu_adam", "offload_optimizer"), ("async_io", "offload to NVMe")):
        if not usable.get(name) and name not in built:
            get = "libaio-dev of the system" if name == "async_io" else "a C++ compiler that torch supports"
            rows.append(Finding("DeepSpeed", name, "missing", "", f"{disables} of DeepSpeed strategies", get))
    return "", rows


def _compatible(builder: Any) -> bool:
    try:
        return bool(builder.is_compatible(verbose=False))
    except Exception:  # such as a GPU without a CUDA toolkit
        return False


def _av(av: Any) -> Found:
    rows = []
    for name, mode, disables in (
        ("libx264", "w", "writing mp4: shards synth, view"),
        ("h264", "r", "reading most mp4"),
    ):
        try:
            av.codec.Codec(name, mode)
            rows.append(Finding("FFmpeg", f"{name} ({'encoder' if mode == 'w' else 'decoder'})", "found"))
        except Exception as error:
            get = "pip install --force-reinstall --only-binary :all: av"
            rows.append(Finding("FFmpeg", name, "missing", error_text(error), disables, get))
    return f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}", rows


def _mamba(mamba: Any) -> Found:
    """Runs the kernel that storm uses, where there is a GPU."""
    import torch

    from framefold.adapters.layers.mamba2 import scan

    if not torch.cuda.is_available():
        return "", [Finding(GPUS, "mamba-ssm kernels", "missing", "they run on GPUs, and there is none", MAMBA)]
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    torch.manual_seed(0)
    x, b, c = (torch.randn(1, 64, heads, 16, device="cuda") for heads in (2, 1, 1))
    dt, decay = torch.rand(1, 64, 2, device="cuda"), -torch.rand(2, device="cuda")
    ours, _ = scan(x, dt, decay, b, c, 16)
    theirs = mamba_chunk_scan_combined(x, dt, decay, b, c, 16)
    if not torch.allclose(theirs, ours, atol=2e-2, rtol=2e-2):  # it multiplies in TF32
        raise RuntimeError(f"its scan differs from ours by {(theirs - ours).abs().max():.3g}")
    return "", [Finding(GPUS, "mamba-ssm kernels", "found")]


def _causal_conv1d(module: Any) -> Found:
    import torch

    if torch.cuda.is_available():
        x, weight = torch.ones(1, 8, 16, device="cuda"), torch.ones(8, 4, device="cuda")
        if module.causal_conv1d_fn(x, weight)[0, 0].tolist()[:5] != [1, 2, 3, 4, 4]:
            raise RuntimeError("its convolution is wrong on this GPU")
    return "", []


def _torchvision() -> list[Finding]:
    """In the environment, or where ``make setup`` puts it; before transformers is imported, which looks once."""
    from framefold.training.frozen_host.torchvision import find_torchvision

    package = PACKAGES["torchvision"]
    try:
        find_torchvision()
    except Exception as error:
        absent = importlib.util.find_spec("torchvision") is None
        row = package.row("missing" if absent else "broken", "" if absent else error_text(error))
        advice = re.search(r"pip install .*", str(error))
        return [Finding(row.group, row.name, row.state, row.detail, row.disables, advice[0] if advice else row.get)]
    module = sys.modules["torchvision"]
    place = "beside the environment" if Path(sys.prefix, "torchvision") in Path(str(module.__file__)).parents else ""
    return [package.row("found", ", ".join(filter(None, [str(module.__version__), place])))]


TRIED: dict[str, Callable[[Any], Found]] = {
    "torch": _torch,
    "deepspeed": _deepspeed,
    "av": _av,
    "mamba_ssm": _mamba,
    "causal_conv1d": _causal_conv1d,
}
