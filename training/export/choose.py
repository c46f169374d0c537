"""Which checkpoint of a run is exported: the best one by validation, or the last one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from framefold.adapters.core.registry import compressor_class
from framefold.errors import AdapterFileError, ConfigError, UnknownCompressorError
from framefold.training.checkpoint.inventory import (
    MANIFEST,
    is_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    read_header,
    verify_checkpoint,
)
from framefold.training.checkpoint.read import read_run_state

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Choice:
    """A checkpoint, and why it was chosen; "" if it was given."""

    path: Path
    reason: str = ""


def choose_checkpoint(path: Path, which: Which | None = None) -> Choice:
    """Return the checkpoint itself, or one of the complete checkpoints below a run folder; of any strategy.

    Args:
        path: checkpoint, or folder of a run.
        which: "last": the checkpoint that was written last. "best": that of the best validation of the same run. None:
            the best one if the run was validated on data that the user chose, and its accuracy was ever above 0,
            otherwise the last one.

    Raises:
        AdapterFileError: there is no such checkpoint, or it is damaged.
        ConfigError: ``which`` was given for a checkpoint.
    """
    if path.exists() and is_checkpoint(path):
        if which is not None:
            raise ConfigError(f"{path} is a checkpoint: --which chooses one of a run folder")
        problem = verify_checkpoint(read_header(path)).problem
        if problem and (path.is_file() or (path / MANIFEST).exists()):  # Lightning's own folders have no manifest
            raise AdapterFileError(problem if problem.startswith(str(path)) else f"{path} is damaged: {problem}")
        return Choice(path)
    last = latest_checkpoint(path, by_time=True)
    if last is None:
        hint = "" if path.exists() else _unknown_name(str(path))
        raise AdapterFileError(
            f"no checkpoint at {path}: give a .ckpt file or the folder of a 'framefold fit' run{hint}"
        )
    if which == "last":
        return Choice(last.path, "the last one, as --which says")
    validation = own_validation(last.path)
    if which is None and validation is None:
        return Choice(last.path, "the last one: the run was not validated on data of yours (--which best)")
    best = _best_checkpoint(path, last.path)
    if best is None and which == "best":
        raise AdapterFileError(f"{path} has no complete best.ckpt, because no validation was run: use --which last")
    if best is None:
        return Choice(last.path, "the last one: there is no best.ckpt")
    if which is None and _is_never_right(best):
        return Choice(last.path, f"the last one: {_score(best)} in all validations tells none apart (--which best)")
    why = "as --which says" if which else f"on {validation} (--which last for the last one)"
    return Choice(best, f"the best one by {_score(best)}, {why}")


def own_validation(checkpoint: Path) -> str | None:
    """Return the data on which the run of a checkpoint was validated, in words; None if they were generated."""
    try:
        data = yaml.safe_load((checkpoint.absolute().parent.parent / "config.yaml").read_text())["data"]
        if data.get("val_shards") is not None:
            return "its data.val_shards"
        return "the samples held out by data.val_share" if data.get("val_share") and data.get("shards") else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return None


def _best_checkpoint(root: Path, last: Path) -> Path | None:
    """Return the complete best checkpoint of the run of the last one; a resumed run may have it in another folder."""
    known = [found.path for found in list_checkpoints(root, best=True) if found.path.name.startswith("best")]
    saved = Path(str(_best_state(last).get("best_model_path") or ""))
    for path in (last.parent / "best.ckpt", saved):
        if path.name.startswith("best") and path.exists() and not verify_checkpoint(read_header(path)).problem:
            return path
    complete = [path for path in known if not verify_checkpoint(read_header(path)).problem]
    return max(complete, key=lambda path: read_header(path).saved, default=None)


def _best_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state of the callback that saves the best checkpoint."""
    callbacks = read_run_state(checkpoint).get("callbacks")
    states = callbacks.items() if isinstance(callbacks, dict) else ()
    return next((state for name, state in states if str(name).startswith("BestCheckpoint")), {})


def _is_never_right(best: Path) -> bool:
    """Return whether no validation had an accuracy above 0, as with sentences as answers; the best one is the first."""
    state = _best_state(best)
    score = state.get("current_score", state.get("best_model_score"))
    return score is not None and float(score) == 0 and str(state.get("monitor")).startswith("val/accuracy")


def _score(best: Path) -> str:
    state = _best_state(best)
    monitor, score = state.get("monitor") or "validation", state.get("current_score", state.get("best_model_score"))
    return f"{monitor} {float(score):.4g}" if score is not None else str(monitor)


def _unknown_name(text: str) -> str:
    """Return why a word that resembles the name of a compressor is none, for a message."""
    try:
        compressor_class(text if text.isidentifier() else "identity")
    except UnknownCompressorError as error:
        return "" if "; known: " in str(error) else f"; {error}"
    return ""
