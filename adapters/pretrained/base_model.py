"""The host that an adapter was trained with, as recorded in its ``config.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_KEYS = {  # in config.json
    "name": "base_model_name_or_path",
    "revision": "base_model_revision",
    "kind": "host",
    "width": "width",
    "weights": "host_weights",
}


@dataclass(frozen=True)
class BaseModel:
    """The host that an adapter was trained with; unknown attributes are None.

    Attributes:
        name: Hub id if there is a revision, otherwise a folder.
        revision: commit on the Hub.
        kind: ``model_type``.
        width: width of the visual tokens.
        weights: :func:`~framefold.files.weights_digest` of the host folder.
    """

    name: str | None = None
    revision: str | None = None
    kind: str | None = None
    width: int | None = None
    weights: str | None = None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> BaseModel:
        """Read the host from a validated ``config.json``."""
        return cls(**{name: config.get(key) for name, key in _KEYS.items()})

    def to_config(self) -> dict[str, Any]:
        """Return the fields of ``config.json``, without unknown ones."""
        return {_KEYS[name]: value for name, value in asdict(self).items() if value is not None}


def hub_snapshot(folder: str) -> tuple[str, str] | None:
    """Return Hub id and commit of a folder in the cache of huggingface_hub; None for any other folder."""
    repository, snapshots, commit = ("", "", "", *Path(folder).absolute().parts)[-3:]
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return "/".join(repository.split("--")[1:]), commit
