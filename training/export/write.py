"""An adapter in memory, and its files in a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.hosts.lora.config import LoraAdapter, lora_files
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.adapters.pretrained.config import CONFIG
from framefold.adapters.pretrained.folder import save_folder
from framefold.adapters.pretrained.hub import CARD, LORA_FILES
from framefold.adapters.pretrained.weights import WEIGHTS
from framefold.files import replace_files
from framefold.version import __version__

ORDER = (WEIGHTS, *LORA_FILES, CARD, CONFIG)  # the config last, because a folder without it is not an adapter


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Attributes:
        compressor: compressor with its weights.
        fields: fields of config.json other than those that describe the compressor.
        lora: LoRA that was trained with the compressor, if any.
        source: what the adapter was loaded from, for messages.
    """

    compressor: Compressor
    fields: dict[str, Any]
    lora: LoraAdapter | None
    source: str

    def save(self, folder: Path) -> None:
        """Write the files that loading reads, which do not include the model card."""
        base_model, files = BaseModel.from_config(self.fields), {}
        if self.lora is not None:
            base = (
                {"base_model_name_or_path": base_model.name, "revision": base_model.revision} if base_model.name else {}
            )
            files = lora_files({**self.lora.fields, **base}, self.lora.weights)
        # Written even if they are None.
        host = {"base_model_name_or_path": base_model.name, "base_model_revision": base_model.revision}
        save_folder(self.compressor, folder, self.fields | host | {"framefold_version": __version__}, files)


def copy_adapter(stage: Path, out: Path) -> None:
    """Copy the files of an adapter into its folder, all or none of them, and delete those of an earlier adapter."""
    present = [name for name in ORDER if (stage / name).is_file()]
    for name in present:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    writers: dict[Path, Callable[[Path], Any]] = {
        out / name: partial(shutil.copyfile, stage / name) for name in present
    }
    replace_files(writers)
    for name in ORDER:
        if name not in present:
            (out / name).unlink(missing_ok=True)
