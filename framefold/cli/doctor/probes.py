"""Package checks of ``framefold doctor``. They may crash or hang, so they run in processes of their own (:func:`main`).

Some packages are also used after their import, which gives additional findings.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from .findings import MAMBA, PACKAGES, Finding, plugins

Check = tuple[str, list[Finding]]  # text to add to the version, and additional findings

GPUS, DISTRIBUTED = "GPUs", "distributed"


def main(results: str, names: list[str]) -> None:
    """Check packages one after another; stop after a broken one, which may have left partly imported modules.

    Args:
        results: file to which one line of JSON, [name, findings], is appended per package.
        names: module names of the packages.
    """
    for name in names:
        findings = check_package(name)
        with open(results, "a") as file:
            print(json.dumps([name, [asdict(finding) for finding in findings]]), file=file)
        if findings[0].state == "broken":
            return


def check_package(name: str) -> list[Finding]:
    """Import a package and return its finding, followed by those of its additional checks."""
    if name not in PACKAGES:
        return [_check_plugin(name)]
    package = PACKAGES[name]
    version = package.version() or ""
    try:
        if name == "torchvision":
            return _check_torchvision()
        module = importlib.import_module(name)
        if getattr(module, "__file__", None) is None:  # a folder of that name, such as the one that wandb creates
            return [package.finding("missing")]
        detail, more = CHECKS[name](module) if name in CHECKS else ("", [])
    except BaseException as error:  # a package may even call sys.exit
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return [package.finding("missing")]
        return [package.finding("broken", f"{version} {error_text(error)}".strip())]
    version = version or str(getattr(module, "__version__", ""))
    if package.too_old(version):
        return [package.finding("broken", f"{version} is too old, {package.requirement()} is needed"), *more]
    return [package.finding("found", f"{version}{detail and ', '}{detail}"), *more]


def _check_plugin(value: str) -> Finding:
    """Load the entry point of a plug-in, as the registry of compressors does."""
    package = next(plugin for plugin in plugins() if plugin.module == value)
    try:
        EntryPoint("", value, "").load()
    except BaseException as error:  # a package may even call sys.exit
        return package.finding("broken", error_text(error))
    return package.finding("found")


def error_text(error: BaseException) -> str:
    """Return type and text of an error, at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _check_torch(torch: Any) -> Check:
    built = (
        f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}" if torch.version.hip else ""
    )
    gpus = [_check_gpu(torch, i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if not gpus:
        why = f"torch is built for {built}, but finds no GPU" if built else "torch is built for CPUs"
        disables, get = "trainer/gpu, trainer/deepspeed, GPU kernels", "a driver, and a torch built for it"
        gpus = [Finding(GPUS, "GPU", "missing", why, disables, get)]
    return f"for {built or 'CPUs'}", [*gpus, *_check_backends(torch)]


def _check_gpu(torch: Any, index: int) -> Finding:
    """Add two numbers on a GPU, which fails if the driver is too old or torch was not built for this GPU."""
    try:
        facts = torch.cuda.get_device_properties(index)
        free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(index))
        text = f"{facts.name}, {free:.0f} of {total:.0f} GiB free, compute capability {facts.major}.{facts.minor}"
        assert (torch.ones(2, device=f"cuda:{index}") + 1).tolist() == [2, 2]
    except Exception as error:
        advice = "check nvidia-smi, or install a torch built for it: https://pytorch.org/get-started/locally"
        return Finding(GPUS, f"GPU {index}", "broken", error_text(error), "training on it", advice)
    if torch.version.cuda and facts.major < 8:
        return Finding(
            GPUS, f"GPU {index}", "low", text, "fast bf16, which trainer/gpu uses (bf16-mixed)", "Ampere or newer"
        )
    return Finding(GPUS, f"GPU {index}", "found", text)


def _check_backends(torch: Any) -> list[Finding]:
    import torch.distributed as dist

    if not dist.is_available():
        get = "a torch built with torch.distributed"
        return [Finding(DISTRIBUTED, "torch.distributed", "missing", "", "more than one process, torchrun", get)]
    findings = []
    for name, available, disables in (
        ("gloo", dist.is_gloo_available(), "several processes on CPUs"),
        ("NCCL", dist.is_nccl_available(), "several GPUs"),
        (
            "MPI",
            dist.is_mpi_available(),
            "torch's own MPI backend; not needed by launch mpirun, whose ranks use NCCL or gloo",
        ),
    ):
        if available:
            version = ".".join(map(str, torch.cuda.nccl.version())) if name == "NCCL" else ""
            findings.append(Finding(DISTRIBUTED, name, "found", version))
        else:
            get = "a torch for CUDA" if name == "NCCL" else f"a torch built from source with {name}"
            findings.append(Finding(DISTRIBUTED, name, "missing", "", disables, get))
    if findings[0].state == "found":
        findings[0] = _check_gloo(dist)
    return findings


def _check_gloo(dist: Any) -> Finding:
    """Form a group of one process, which fails if the machine cannot resolve its own name."""
    try:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:
        get = "GLOO_SOCKET_IFNAME=(an interface of 'ip addr'), or this machine's name in /etc/hosts"
        return Finding(DISTRIBUTED, "gloo", "broken", error_text(error), "more than one process", get)
    return Finding(DISTRIBUTED, "gloo", "found")


def _check_deepspeed(deepspeed: Any) -> Check:
    from deepspeed.git_version_info import installed_ops
    from deepspeed.ops.op_builder.all_ops import ALL_OPS

    built = sorted(name for name, done in installed_ops.items() if done)
    usable = {name: _compatible(builder) for name, builder in ALL_OPS.items() if name != "deepspeed_not_implemented"}
    lists = ("prebuilt", built), ("built when needed", sorted(n for n, yes in usable.items() if yes and n not in built))
    text = "; ".join(f"{label}: {', '.join(names)}" for label, names in lists if names)
    findings = [Finding("DeepSpeed", "ops", "found" if text else "missing", text)]
    for name, disables in (("cpu_adam", "offload_optimizer"), ("async_io", "offload to NVMe")):
        if not usable.get(name) and name not in built:
            get = "libaio-dev of the system" if name == "async_io" else "a C++ compiler that torch supports"
            findings.append(Finding("DeepSpeed", name, "missing", "", f"{disables} of DeepSpeed strategies", get))
    return "", findings


def _compatible(builder: Any) -> bool:
    try:
        return bool(builder.is_compatible(verbose=False))
    except Exception:  # such as a GPU without a CUDA toolkit
        return False


def _check_av(av: Any) -> Check:
    findings = []
    for name, mode, disables in (
        ("libx264", "w", "writing mp4: shards synth, view"),
        ("h264", "r", "reading most mp4"),
    ):
        try:
            av.codec.Codec(name, mode)
            findings.append(Finding("FFmpeg", f"{name} ({'encoder' if mode == 'w' else 'decoder'})", "found"))
        except Exception as error:
            get = "pip install --force-reinstall --only-binary :all: av"
            findings.append(Finding("FFmpeg", name, "missing", error_text(error), disables, get))
    return f"libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}", findings


def _check_mamba(mamba: Any) -> Check:
    """Run the kernel that storm uses, if there is a GPU."""
    import torch

    from framefold.adapters.layers.mamba2 import state_space_scan

    if not torch.cuda.is_available():
        return "", [Finding(GPUS, "mamba-ssm kernels", "missing", "they run on GPUs, and there is no GPU", MAMBA)]
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    torch.manual_seed(0)
    x, b, c = (torch.randn(1, 64, heads, 16, device="cuda") for heads in (2, 1, 1))
    dt, decay = torch.rand(1, 64, 2, device="cuda"), -torch.rand(2, device="cuda")
    ours, _ = state_space_scan(x, dt, decay, b, c, 16)
    theirs = mamba_chunk_scan_combined(x, dt, decay, b, c, 16)
    if not torch.allclose(theirs, ours, atol=2e-2, rtol=2e-2):  # mamba-ssm multiplies in TF32
        raise RuntimeError(f"its scan differs from that of framefold by {(theirs - ours).abs().max():.3g}")
    return "", [Finding(GPUS, "mamba-ssm kernels", "found")]


def _check_causal_conv1d(module: Any) -> Check:
    import torch

    if torch.cuda.is_available():
        x, weight = torch.ones(1, 8, 16, device="cuda"), torch.ones(8, 4, device="cuda")
        if module.causal_conv1d_fn(x, weight)[0, 0].tolist()[:5] != [1, 2, 3, 4, 4]:
            raise RuntimeError("its convolution is wrong on this GPU")
    return "", []


def _check_vllm(vllm: Any) -> Check:
    """Compare it with what the plug-in overrides, as a server does when it starts."""
    from framefold.adapters.serving.vllm.plugin import ARCHITECTURES
    from framefold.adapters.serving.vllm.self_check import seam_problem, version_problem

    served = [configuration.model_type for configuration in ARCHITECTURES.values()]
    problem = version_problem() or next(filter(None, map(seam_problem, served)), None)
    if problem is not None:
        raise RuntimeError(problem)
    return f"fits the plug-in for {', '.join(served)}", []


def _check_torchvision() -> list[Finding]:
    """Look in the environment and in the folder of ``make setup``, before transformers is imported and looks for it."""
    from framefold.training.frozen_host.torchvision import find_torchvision

    package = PACKAGES["torchvision"]
    try:
        find_torchvision()
    except Exception as error:
        absent = importlib.util.find_spec("torchvision") is None
        finding = package.finding("missing" if absent else "broken", "" if absent else error_text(error))
        advice = re.search(r"pip install .*", str(error))
        return [replace(finding, get=advice[0]) if advice else finding]
    module, separate = sys.modules["torchvision"], Path(sys.prefix, "torchvision")
    detail = [str(module.__version__), *([f"in {separate}"] if separate in Path(str(module.__file__)).parents else [])]
    return [package.finding("found", ", ".join(detail))]


CHECKS: dict[str, Callable[[Any], Check]] = {
    "torch": _check_torch,
    "deepspeed": _check_deepspeed,
    "av": _check_av,
    "mamba_ssm": _check_mamba,
    "causal_conv1d": _check_causal_conv1d,
    "vllm": _check_vllm,
}
