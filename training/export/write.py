"""What is to be an adapter, written as a folder or pushed to the Hub, with its model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from framefold import __version__
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.lora.config import Lora, lora_files
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.adapters.pretrained.config import CONFIG
from framefold.adapters.pretrained.folder import save_folder
from framefold.adapters.pretrained.hub import CARD, LORA_FILES
from framefold.adapters.pretrained.weights import WEIGHTS
from framefold.files import replace_files

ORDER = (WEIGHTS, *LORA_FILES, CARD, CONFIG)  # the config last: without it there is no adapter


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Attributes:
        compressor: with its weights. fields: of config.json, besides those that say which compressor it is.
        lora: that was trained with it. source: what it was made from, for messages.
    """

    compressor: Compressor
    fields: dict[str, Any]
    lora: Lora | None
    source: str

    def save(self, folder: Path) -> None:
        """Write the files that are loaded; the card is another matter."""
        base_model, files = BaseModel.of(self.fields), {}
        if self.lora is not None:
            base = (
                {"base_model_name_or_path": base_model.name, "revision": base_model.revision} if base_model.name else {}
            )
            files = lora_files({**self.lora.fields, **base}, self.lora.weights)
        host = {
            "base_model_name_or_path": base_model.name,
            "base_model_revision": base_model.revision,
        }  # null is said, too
        save_folder(self.compressor, folder, self.fields | host | {"framefold_version": __version__}, files)


def copy_adapter(stage: Path, out: Path) -> None:
    """Put the files of an adapter into its folder, all or none of them, and take away those of an earlier one."""
    here = [name for name in ORDER if (stage / name).is_file()]
    for name in here:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    writers: dict[Path, Callable[[Path], Any]] = {out / name: partial(shutil.copyfile, stage / name) for name in here}
    replace_files(writers)
    for name in ORDER:
        if name not in here:
            (out / name).unlink(missing_ok=True)
