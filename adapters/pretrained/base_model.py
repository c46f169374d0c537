"""The host that an adapter was trained with, as recorded in its ``config.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framefold.files import weights_digest
from framefold.messages import short

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

    def difference(self, host: BaseModel, folder: Path | None, title: str = "host") -> str | None:
        """Compare with the host in which an adapter is to be used, as far as both are known.

        For a host from the Hub the ids are compared, not the commits, because most commits change no weights. For a
        host from a folder the digests of the weights are compared, if the adapter names one.

        Args:
            host: the host.
            folder: where its weights are, if they are in a folder.
            title: what a message calls the host.

        Returns:
            Both hosts in words, "a glm4v host, this is 'internvl'"; None if they agree.
        """
        if self.kind not in (None, host.kind):
            return f"a {short(self.kind)} host, this is {host.kind!r}"
        if self.width not in (None, host.width):
            return f"a host of width {self.width}, this {title} has {host.width}"
        if self.revision and self.name and host.name:
            differs = self.name.lower() != host.name.lower()
            return f"{short(self.name)}, this is {short(host.name)}" if differs else None
        if self.weights and folder is not None and self.weights != weights_digest(folder):
            return f"{short(self.name)}, whose weights are not those of {folder}"
        return None


def hub_snapshot(folder: str) -> tuple[str, str] | None:
    """Return Hub id and commit of a folder in the cache of huggingface_hub; None for any other folder."""
    repository, snapshots, commit = ("", "", "", *Path(folder).absolute().parts)[-3:]
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return "/".join(repository.split("--")[1:]), commit
