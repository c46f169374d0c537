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
from framefold.adapters.pretrained.hub import HUB_ID
from framefold.errors import ConfigError, HostError
from framefold.files import weights_digest
from framefold.messages import short

CONFIG = "config.json"

EMBEDDED = "checkpoints/tinyhost"  # default of all commands

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

    @property
    def remedy(self) -> str:
        """What to do if files of the host are missing or damaged."""
        if self.is_tinyhost:
            return f"create it again with 'framefold tinyhost train --out {self.name}'"
        if (snapshot := hub_snapshot(str(self.folder))) is not None:
            return f"'{download_command(*snapshot)}' downloads what is missing"
        return "copy or download the folder again"

    def merged_adapter(self) -> str:
        """Return the folder of the adapter that 'framefold export --merge' put beside the weights.

        Raises:
            ConfigError: there is none.
        """
        settings = self.config.get("framefold")
        name = settings.get("adapter") if isinstance(settings, dict) else None
        if not isinstance(name, str) or not (self.folder / name).is_dir():
            raise ConfigError(f"{self.name} contains no compressor: name one (--compressor)")
        return str(self.folder / name)

    def record(self) -> BaseModel:
        """Return what identifies the host without reading its weights; the name is a Hub id or None."""
        text = self.config.get("text_config") or self.config
        hub_id, revision = hub_snapshot(str(self.folder)) or (None, None)
        return BaseModel(hub_id, revision, self.kind, text.get("hidden_size"))

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
    """Find a host on this machine, as every command does. Nothing is downloaded.

    Args:
        name: folder, or user/name or user/name@revision on the Hub.
        revision: branch, tag or commit on the Hub; None selects main.

    Raises:
        HostError: It is neither a folder nor in the cache of the Hub, or its config.json cannot be read.
    """
    name = os.fspath(name)
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        hub_id = HUB_ID.fullmatch(name)
        named = (hub_id["repository"], revision or hub_id["revision"]) if hub_id else (name, revision)
        folder = _cached_snapshot(*named)
    elif revision is not None:
        raise HostError(f"{name} is a folder and has no revisions: drop revision {short(revision)}, or give the Hub id")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise HostError(f"the host in {folder} is damaged or incomplete ({error})") from error
    if not isinstance(config, dict):
        raise HostError(f"{folder / CONFIG} does not describe a host")
    return HostFolder(name, folder, config)


def download_command(name: str, revision: str | None = None) -> str:
    """Return the command that downloads a host into the cache of the Hub."""
    return f"hf download {name}{f' --revision {revision}' if revision else ''}"


def _cached_snapshot(name: str, revision: str | None) -> Path:
    try:
        cached = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        cached = None
    if isinstance(cached, str):
        return Path(cached).parent
    raise HostError(_missing(name, revision))


def _missing(name: str, revision: str | None) -> str:
    """Say that there is no host of a name, and how to get one: from the Hub if the name is an id, else by training."""
    path = Path(name)
    download = f"download it with '{download_command(name, revision)}'"
    train = f"'framefold tinyhost train --out {name}' trains a small one there"
    if path.is_dir():
        return f"no host in {name}: the folder has no {CONFIG}; {train}"
    if path.exists():
        return f"no host in {name}: it is a file, and a host is a folder with a {CONFIG}, or an id on the Hub"
    if not HUB_ID.fullmatch(name):
        return f"no host in {name}: there is no such folder, and ids on the Hub look like user/name; {train}"
    if name == EMBEDDED:
        return f"no host in {name}, which is in the checkout of framefold: run there, or give the path; or {train}"
    if path.parent.is_dir():
        return f"no host in {name}: there is no such folder; {train}. If it is an id on the Hub, {download}"
    return f"the host {name} is not on this machine: {download}, or give the folder of a copy"
