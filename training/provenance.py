"""Where a result comes from: versions of what computed it, the git state of the source, the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from .. import __version__

PACKAGES = ("torch", "transformers", "numpy")
SECONDS = 20  # that git may take; on a slow disk status reads the whole tree
CPUS = Path("/proc/cpuinfo")
SOURCE = Path(__file__).resolve().parent


def versions() -> dict[str, str | None]:
    """Of framefold, Python and the packages that compute."""
    return {
        "framefold": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def git_state(folder: Path = SOURCE) -> dict[str, Any] | None:
    """Commit of the checkout that a source folder belongs to, and whether files in it were changed since.

    Args:
        folder: of source files.

    Returns:
        ``{"commit": str, "dirty": bool}``; None outside of git, and where git does not track the folder, as that of an
        environment inside somebody's repository.
    """
    if not _git(folder, "ls-files", "."):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    call = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine(device: torch.device) -> dict[str, Any]:
    """What computed: processor, cores that this process may use, threads, memory, and the GPU if it was one."""
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": None if gpu is None else gpu.name,
        "gpu_memory_gib": None if gpu is None else round(gpu.total_memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", CPUS.read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def now() -> str:
    """This moment in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
