"""Atomic file writes and SHA-256 digests. Imports no torch.

A file is written next to its destination, synchronised to the disk and then renamed, so that a full disk, a killed
process or a power failure leaves the previous file intact.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

_TEMPORARY_SUFFIX = r"\.[a-z0-9_]{8}"  # of the names that mkstemp gives: ".NAME" and this


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically.

    Args:
        path: destination; its folder must exist.
        write: called with the temporary path to write to.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    replace_files({path: write})


def replace_files(files: dict[Path, Callable[[Path], Any]]) -> None:
    """Replace files that belong together; none is renamed before all are written.

    Args:
        files: destination of each file and the function that writes it to a temporary path, in the order of renaming.

    Raises:
        OSError: one of them cannot be written; the error names it, and no destination has changed.
    """
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
            fsync_path(written[path])
            written[path].chmod(0o644)  # mkstemp creates files that only their owner can read
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)


def fsync_path(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that killed writers of a file left behind.

    Call it only while no other process can be writing that file, for example while holding its lock.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if re.fullmatch(_TEMPORARY_SUFFIX, leftover.name.removeprefix(f".{path.name}")):
            leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Write a JSON file atomically.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    text = json.dumps(content, indent=indent) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def bytes_digest(chunks: Iterable[bytes]) -> str:
    """SHA-256 of all chunks one after the other, in hex."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file of any size as hexadecimal digits, or "" if it does not exist."""
    if not file.is_file():
        return ""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def weights_digest(folder: Path) -> str:
    """Return one SHA-256 over all weight files of a host folder.

    The digest of a file is cached until its size or modification time changes.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin"))
    return text_digest(
        "\n".join(sorted(f"{file.name} {_cached_digest(file, *_size_and_time(file))}" for file in files))
    )


def _size_and_time(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _cached_digest(file: Path, size: int, modified_ns: int) -> str:
    return file_digest(file)
