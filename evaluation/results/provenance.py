"""Where a result comes from: digests of what it depends on, versions, git state, machine.

A result is reused only while none of its digests has changed.
"""

from __future__ import annotations

import hashlib
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
from typing import Any

import psutil
import torch

from framefold import __version__
from framefold.files import file_digest

PACKAGES = ("torch", "transformers", "numpy")
SECONDS = 20  # that git may take; on a slow disk status reads the whole tree
CPUS = Path("/proc/cpuinfo")
SOURCE = Path(__file__).resolve().parents[1]
HOST_FILES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}


def host_digest(folder: Path) -> str:
    """SHA-256 of a host's weights (in however many files), configuration and tokenizer."""
    return _joined(file for file in folder.iterdir() if file.is_file() and file.suffix in HOST_FILES)


def code_digest(module: str, compressor: type | None = None) -> str:
    """SHA-256 of the source that a result depends on.

    Args:
        module: dotted name of a loaded module; it and all of framefold that it uses is digested.
        compressor: a class, digested with what it is built from.
    """
    stages = getattr(compressor, "parts", ())  # of a chain; they may come from other packages than the chain
    digests = [_code_digest(module, one) for one in (compressor, *stages)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if stages else digests[0]


def _code_digest(module: str, compressor: type | None) -> str:
    classes = compressor.__mro__ if compressor is not None else ()
    todo = [module, *(cls.__module__ for cls in classes if cls.__module__.startswith(_package(compressor)))]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen or name not in sys.modules:
            continue
        seen.add(name)
        users = (getattr(value, "__module__", None) for value in list(vars(sys.modules[name]).values()))
        todo += {
            user for user in users if isinstance(user, str) and user.startswith(("framefold.", _package(compressor)))
        }
    return _joined(Path(file) for name in seen if (file := getattr(sys.modules[name], "__file__", None)))


def _package(compressor: type | None) -> str:
    return (compressor.__module__ if compressor is not None else __name__).partition(".")[0]


def _joined(files: Iterable[Path]) -> str:
    lines = sorted(f"{file.name} {file_digest(file)}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
