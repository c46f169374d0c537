"""What a result depends on, as SHA-256: a result is reused only while none of it has changed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from ..adapters.origin import weights_digest as weights_digest

HOST_FILES = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}


def file_digest(file: Path) -> str:
    """SHA-256 of a file, "" where there is none."""
    if not file.is_file():
        return ""
    with open(file, "rb") as opened:  # which may be larger than the memory
        return hashlib.file_digest(opened, "sha256").hexdigest()


def host_digest(folder: Path) -> str:
    """SHA-256 of a host's weights (in however many files), configuration and tokenizer."""
    return _joined(file for file in folder.iterdir() if file.is_file() and file.suffix in HOST_FILES)


def code_digest(compressor: type | None = None) -> str:
    """SHA-256 of the source that makes videos and asks about them, and of a compressor with what it is built from."""
    stages = getattr(compressor, "parts", ())  # of a chain, which may be of other packages than the chain is
    digests = [_code_digest(compressor), *map(_code_digest, stages)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if stages else digests[0]


def _code_digest(compressor: type | None) -> str:
    from . import heldout

    classes = compressor.__mro__ if compressor is not None else ()
    todo = [heldout.__name__, *(cls.__module__ for cls in classes if cls.__module__.startswith(_package(compressor)))]
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
