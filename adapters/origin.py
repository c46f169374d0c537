"""Which host an adapter was trained in, as far as anybody wrote it down."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_FIELDS = {  # of config.json
    "name": "base_model_name_or_path",
    "revision": "base_model_revision",
    "kind": "host",
    "width": "width",
    "weights": "host_weights",
}


@dataclass(frozen=True)
class Origin:
    """The host that an adapter was trained in.

    Attributes:
        name: Hub id, if there is a revision; a folder otherwise.
        revision: commit on the Hub.
        kind: ``model_type``. width: of its visual tokens.
        weights: :func:`weights_digest` of its folder.
    """

    name: str | None = None
    revision: str | None = None
    kind: str | None = None
    width: int | None = None
    weights: str | None = None

    @classmethod
    def of(cls, config: dict[str, Any]) -> Origin:
        """What a checked ``config.json`` says."""
        return cls(**{name: config.get(field) for name, field in _FIELDS.items()})

    def fields(self) -> dict[str, Any]:
        """The same for ``config.json``; what is not known is left out."""
        return {_FIELDS[name]: value for name, value in asdict(self).items() if value is not None}


def hub_snapshot(folder: str) -> tuple[str, str] | None:
    """Hub id and commit of a folder in the cache of huggingface_hub; None for any other folder."""
    repository, snapshots, commit = ("", "", "", *Path(folder).absolute().parts)[-3:]
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return "/".join(repository.split("--")[1:]), commit


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
