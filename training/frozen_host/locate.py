"""Where a host is: a folder, or a snapshot in the cache of the Hub. Nothing is loaded, and nothing is downloaded.

Nothing here imports transformers, so it can be asked before torchvision has been found.
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

FRAMES = "video_preprocessor_config.json"

TURNS = {"user_token": "<user>", "assistant_token": "<assistant>"}  # of the embedded host's tokenizer, and of no other


@dataclass(frozen=True)
class FoundHost:
    """A host on this machine.

    Attributes:
        name: what the user calls it. folder: where its files are. config: what its config.json says.
    """

    name: str
    folder: Path
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """Its ``model_type``."""
        return str(self.config.get("model_type"))

    @property
    def is_embedded(self) -> bool:
        """Whether 'framefold tinyhost train' made it: then raw frames are enough, and no processor is needed."""
        if self.kind != "llava_onevision":
            return False
        try:
            words = json.loads((self.folder / "tokenizer_config.json").read_text())
        except (OSError, ValueError):
            return False
        return isinstance(words, dict) and all(words.get(name) == token for name, token in TURNS.items())

    def base_model(self, width: int) -> dict[str, Any]:
        """What features remember of it: id and commit of a host from the Hub, and the digest of its weights.

        Args:
            width: D, of its visual tokens where they enter the language model.
        """
        name, revision = hub_snapshot(str(self.folder)) or (self.name, None)
        return asdict(BaseModel(name, revision, self.kind, width, weights_digest(self.folder)))

    def check_made(self, made: Mapping[str, Any], width: int, what: str) -> None:
        """Refuse features that another host has made.

        Id and commit of the Hub decide where both have them, and otherwise the digest of the weights.

        Args:
            made: what the features remember, see :meth:`base_model`. width: D of this host. what: their name.

        Raises:
            HostError: another kind, width or other weights, or nobody knows which.
        """
        name, revision = hub_snapshot(str(self.folder)) or (self.name, None)
        for field, own in (("kind", self.kind), ("width", width)):
            if made.get(field) != own:
                raise HostError(self._other(made, what, f"{field} {made.get(field)!r}, not {own!r}"))
        if revision is not None and (made.get("name"), made.get("revision")) == (name, revision):
            return
        if made.get("weights") is None or made["weights"] != weights_digest(self.folder):
            known = "other weights" if made.get("weights") else "nobody knows which weights"
            raise HostError(self._other(made, what, known))

    def _other(self, made: Mapping[str, Any], what: str, difference: str) -> str:
        theirs, ours = (str(short(made.get(field)))[:200] for field in ("name", "revision")), self.name
        by = " at ".join(text for text in theirs if text != "None")
        return (
            f"{what} holds features made by {by}, this is {ours} ({difference}): train with that host, or encode the"
            f" videos again with 'framefold shards features --host {ours}'"
        )


def find_host(name: str | os.PathLike[str], revision: str | None = None) -> FoundHost:
    """Find a host.

    Args:
        name: folder, or id on the Hub. revision: branch, tag or commit of an id; None: main.

    Raises:
        HostError: it is in neither place, or its config.json cannot be read.
    """
    name = os.fspath(name)
    folder = Path(name)
    if not (folder / CONFIG).is_file():
        folder = _snapshot(name, revision)
    elif revision is not None:
        raise HostError(f"{name} is a folder and has no revisions: drop revision {revision!r}, or give the Hub id")
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise HostError(f"the host in {folder} is not whole ({error})") from error
    if not isinstance(config, dict):
        raise HostError(f"{folder / CONFIG} describes no host")
    return FoundHost(name, folder, config)


def _snapshot(name: str, revision: str | None) -> Path:
    try:
        found = try_to_load_from_cache(name, CONFIG, revision=revision)
    except HFValidationError:
        found = None
    if isinstance(found, str):
        return Path(found).parent
    at = f" --revision {revision}" if revision else ""
    raise HostError(
        f"no host in {name}: make one with 'framefold tinyhost train --out {name}'; an id on the Hub must be in its"
        f" cache: 'hf download {name}{at}'"
    )
