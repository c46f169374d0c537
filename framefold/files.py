"""Atomic files and SHA-256 digests. Imports no torch.

A file is written beside its destination and renamed, so that a full disk or a kill leaves the old one complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file beside its place and rename it, so that a full disk or a kill leaves the old one whole.

    Args:
        write: called with the path to write to.

    Raises:
        OSError: it cannot be written; the error names it.
    """
    replace_files({path: write})


def replace_files(files: dict[Path, Callable[[Path], Any]]) -> None:
    """As :func:`replace_file`, for files that belong together: none is renamed before all are written."""
    written: dict[Path, Path] = {}
    try:
        for path, write in files.items():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            os.close(handle)
            written[path] = Path(name)
            try:
                write(written[path])
            except (OSError, SafetensorError) as error:
                text = getattr(error, "strerror", None) or str(error)
                raise OSError(getattr(error, "errno", None) or errno.EIO, text, str(path)) from error
            written[path].chmod(0o644)  # mkstemp makes files that only their owner can read
        for path, beside in written.items():
            os.replace(beside, path)
    finally:
        for beside in written.values():
            beside.unlink(missing_ok=True)


def weights_digest(folder: Path) -> str:
    """SHA-256 of a host's weights alone, in however many files; a file is read again only when it has changed."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    lines = sorted(f"{file.name} {_digest(file, *_state(file))}" for file in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _digest(file: Path, size: int, changed: int) -> str:
    if not file.is_file():
        return ""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file beside its place and rename it.

    Raises:
        OSError: the disk is full or not writable; the error names the folder.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error
    finally:
        beside.unlink(missing_ok=True)


def file_digest(file: Path) -> str:
    """SHA-256 of a file, "" where there is none."""
    if not file.is_file():
        return ""
    with open(file, "rb") as opened:  # which may be larger than the memory
        return hashlib.file_digest(opened, "sha256").hexdigest()
