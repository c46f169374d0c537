"""Which host an adapter was trained in, as far as anybody wrote it down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
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
class BaseModel:
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
    def of(cls, config: dict[str, Any]) -> BaseModel:
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
