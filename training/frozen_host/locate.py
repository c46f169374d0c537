"""Location of a host: a folder, or a snapshot in the cache of the Hub. Loads and downloads nothing.

This module does not import transformers, so it can be used before torchvision has been found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.errors import HostError
from framefold.files import weights_digest
from framefold.messages import short

CONFIG = "config.json"

VIDEO_CONFIG = "video_preprocessor_config.json"

TURNS = {"user_token": "<user>", "assistant_token": "<assistant>"}  # only the tokenizer of a tinyhost has these


@dataclass(frozen=True)
class HostFolder:
    """A host on this machine.

    Attributes:
        name: folder or Hub id, as the user gave it.
        folder: folder of its files.
        config: content of its config.json.
    """

    name: str
    folder: Path
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its ``model_type``."""
        return str(self.config.get("model_type"))

    @property
    def is_tinyhost(self) -> bool:
        """Whether 'framefold tinyhost train' wrote it; such a host takes raw frames and needs no processor."""
        if self.kind != "llava_onevision":
            return False
        try:
            words = json.loads((self.folder / "tokenizer_config.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(words, dict) and all(words.get(name) == token for name, token in TURNS.items())

    def base_model(self, width: int) -> dict[str, Any]:
        """Return the record that features keep of their host: Hub id and commit, and the digest of its weights.

        Args:
            width: D, width of its visual tokens on input to the language model.
        """
        name, revision = hub_snapshot(str(self.folder)) or (self.name, None)
        return asdict(BaseModel(name, revision, self.kind, width, weights_digest(self.folder)))

    def check_features_host(self, record: Mapping[str, Any], width: int, features: str) -> None:
        """Refuse features of another host.

        Hub id and commit decide if both are known; otherwise the digest of the weights decides.

        Args:
            record: what the features keep of their host, see :meth:`base_model`.
            width: D of this host.
            features: name of the features, for the message.

        Raises:
            HostError: Another kind, width or other weights, or unknown weights.
        """
        name, revision = hub_snapshot(str(self.folder)) or (self.name, None)
        for field, own in (("kind", self.kind), ("width", width)):
            if record.get(field) != own:
                raise HostError(self._mismatch(record, features, f"{field} {record.get(field)!r}, not {own!r}"))
        if revision is not None and (record.get("name"), record.get("revision")) == (name, revision):
            return
        if record.get("weights") is None or record["weights"] != weights_digest(self.folder):
            difference = "other weights" if record.get("weights") else "unknown weights"
            raise HostError(self._mismatch(record, features, difference))

    def _mismatch(self, record: Mapping[str, Any], features: str, difference: str) -> str:
        known = [short(record[key]) for key in ("name", "revision") if record.get(key) is not None]
        origin = " at ".join(known)
        return (
            f"{features} holds features encoded by {origin}, but this host is {self.name} ({difference}): train with"
            f" that host, or encode the videos again with 'framefold shards features --host {self.name}'"
        )


def find_host(name: str | os.PathLike[str], revision: str | None = None) -> HostFolder:
    """Find a host on this machine.

    Args:
        name: folder, or id on the Hub.
        revision: branch, tag or commit of an id; None selects main.

    Raises:
        HostError: It is neither a folder nor in the cache of the Hub, or its config.json cannot be read.
    """
    name = os.fspath(name)
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        folder = _cached_snapshot(name, revision)
    elif revision is not None:
        raise HostError(f"{name} is a folder and has no revisions: drop revision {revision!r}, or give the Hub id")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise HostError(f"the host in {folder} is damaged or incomplete ({error})") from error
    if not isinstance(config, dict):
        raise HostError(f"{folder / CONFIG} does not describe a host")
    return HostFolder(name, folder, config)


def _cached_snapshot(name: str, revision: str | None) -> Path:
    try:
        cached = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return Path(cached).parent
    option = f" --revision {revision}" if revision else ""
    raise HostError(
        f"no host in {name}: create one with 'framefold tinyhost train --out {name}', or download a Hub id into the"
        f" cache with 'hf download {name}{option}'"
    )
