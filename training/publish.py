"""What is to be an adapter, written as a folder or pushed to the Hub, with its model card."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..adapters import Compressor
from ..adapters.card import Measured, is_ours, write_card
from ..adapters.folder import CONFIG, WEIGHTS, replace_files, save_folder
from ..adapters.hosts.lora_folder import Lora, lora_files
from ..adapters.hub import CARD, LORA_FILES
from ..adapters.hub_push import push as push_folder
from ..adapters.origin import Origin
from .lora import adapter_digest

ORDER = (WEIGHTS, *LORA_FILES, CARD, CONFIG)  # the config last: without it there is no adapter


@dataclass(frozen=True)
class Made:
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
        origin, files = Origin.of(self.fields), {}
        if self.lora is not None:
            base = {"base_model_name_or_path": origin.name, "revision": origin.revision} if origin.name else {}
            files = lora_files({**self.lora.fields, **base}, self.lora.weights)
        host = {"base_model_name_or_path": origin.name, "base_model_revision": origin.revision}  # null is said, too
        save_folder(self.compressor, folder, self.fields | host | {"framefold_version": __version__}, files)


def publish(
    made: Made, out: str | None, push: str | None, *, private: bool, tag: str | None, results: str | None, license: str
) -> Path | None:
    """Write an adapter beside, complete it with its card, then put it in its places.

    Args: as of :func:`framefold.training.export.export`.

    Raises:
        ResultsError, HubError: see there. OSError: the folder cannot be written; files that were there stay whole.
    """
    with tempfile.TemporaryDirectory() as beside:
        stage = Path(beside)
        made.save(stage)
        weights = adapter_digest(stage) or None
        rows: Sequence[Measured] = ()
        if results:
            from .card import measured  # brings what the ablation is made of

            rows = measured(results, made.compressor, weights, made.lora is not None)
        if out is not None and not is_ours(Path(out) / CARD):
            shutil.copyfile(Path(out) / CARD, stage / CARD)
            print(f"the card {Path(out) / CARD} was not written by framefold, so it stays as it is")
        write_card(stage, push or str(out), tag=tag, license=license, results=rows)
        what = f"{made.compressor.name}{' and LoRA' if made.lora else ''} from {made.source}"
        if out is not None:
            _copy(stage, Path(out))
            print(f"exported {what} to {out}")
        if push is not None:
            url = push_folder(stage, push, private=private, tag=tag, message=f"Upload {made.compressor.name}")
            print(f"pushed {what} to {push}{f' as {tag}' if tag else ''}: {url}")
    return None if out is None else Path(out)


def _copy(stage: Path, out: Path) -> None:
    """Put the files of an adapter into its folder, all or none of them, and take away those of an earlier one."""
    here = [name for name in ORDER if (stage / name).is_file()]
    for name in here:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    writers: dict[Path, Callable[[Path], Any]] = {out / name: partial(shutil.copyfile, stage / name) for name in here}
    replace_files(writers)
    for name in ORDER:
        if name not in here:
            (out / name).unlink(missing_ok=True)
