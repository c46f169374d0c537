"""Provenance of a result: digests of what it depends on, versions, git state and machine.

A result is reused only as long as none of its digests has changed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from framefold.adapters.base.chain import Chain
from framefold.files import file_digest, text_digest
from framefold.version import __version__

PACKAGES = ("torch", "transformers", "numpy")
GIT_SECONDS = 20  # time limit of a git command; "git status" reads the complete tree, which may be on a slow disk
CPU_INFO = Path("/proc/cpuinfo")
SOURCE = Path(__file__).resolve().parents[1]
HOST_FILES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}


def host_digest(folder: Path) -> str:
    """Return the SHA-256 of a host's weights (in any number of files), configuration and tokenizer."""
    return _files_digest(file for file in folder.iterdir() if file.is_file() and file.suffix in HOST_FILES)


def code_digest(module: str, compressor: type | None = None) -> str:
    """Return the SHA-256 of the source that a result depends on.

    Args:
        module: dotted name of a loaded module; it and all modules of framefold that it uses are included.
        compressor: class of the compressor; its bases and the modules that it uses are included.
    """
    stages: tuple[type, ...] = ()
    if compressor is not None and issubclass(compressor, Chain):
        stages = compressor.stage_classes  # they may be of other packages than the chain
    digests = [_code_digest(module, one) for one in (compressor, *stages)]
    return text_digest("\n".join(digests)) if stages else digests[0]


def _code_digest(module: str, compressor: type | None) -> str:
    classes = compressor.__mro__ if compressor is not None else ()
    todo = [module, *(cls.__module__ for cls in classes if cls.__module__.startswith(_package(compressor)))]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name not in sys.modules:
            continue
        seen.add(name)
        values = list(vars(sys.modules[name]).values())
        users = (one.__name__ if isinstance(one, ModuleType) else getattr(one, "__module__", None) for one in values)
        todo += {
            user for user in users if isinstance(user, str) and user.startswith(("framefold.", _package(compressor)))
        }
    return _files_digest(Path(file) for name in seen if (file := getattr(sys.modules[name], "__file__", None)))


def _package(compressor: type | None) -> str:
    return (compressor.__module__ if compressor is not None else __name__).partition(".")[0]


def _files_digest(files: Iterable[Path]) -> str:
    return text_digest("\n".join(sorted(f"{file.name} {file_digest(file)}" for file in files)))


def versions() -> dict[str, str | None]:
    """Return the versions of framefold, Python and the packages that compute."""
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
    """Return the commit of the checkout that a source folder belongs to, and whether tracked files were changed.

    Args:
        folder: folder of source files.

    Returns:
        ``{"commit": str, "dirty": bool}``; None outside of git, or if git does not track the folder, such as that of an
        environment within another project's repository.
    """
    if not _git(folder, "ls-files", "."):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None or changes is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    call = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=GIT_SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine(device: torch.device) -> dict[str, Any]:
    """Return the processor, the cores that this process may use, threads, memory, and the GPU if the device is one."""
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
        found = re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(), flags=re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def now() -> str:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
