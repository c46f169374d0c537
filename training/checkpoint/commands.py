"""``framefold checkpoint``: list the checkpoints of a run and convert them to other formats."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from framefold.errors import CheckpointError, ConfigError
from framefold.files import fsync_path

from .inventory import (
    Checkpoint,
    is_checkpoint,
    latest_checkpoint,
    list_checkpoints,
    read_header,
    size_and_crc,
    verify_checkpoint,
    write_manifest,
)
from .read import LORA_PREFIX, PREFIX, read_run_state, trained_weights
from .universal import convert_to_universal

COMPRESSOR, LORA, ABOUT = "model.safetensors", "lora.safetensors", "checkpoint.json"
COLUMNS = ["checkpoint", "step", "kind", "strategy", "ranks", "written", "size", "state"]
NUMBERS = ("step", "ranks", "size")  # columns that are aligned to the right
HYPER_PARAMETERS = ("compressor", "budget", "params", "host", "lora", "losses", "lr")  # copied to checkpoint.json


def show_checkpoints(run: str) -> int:
    """List the checkpoints below a run folder in descending order of steps, after reading every byte of them.

    Args:
        run: folder of one or more runs, or a checkpoint.

    Returns:
        0, or 1 if no checkpoint is complete.

    Raises:
        CheckpointError: the folder does not exist.
    """
    root = Path(run)
    if not root.exists():
        raise CheckpointError(f"there is no {root}: give the folder of a 'framefold fit' run, or a checkpoint")
    is_single = is_checkpoint(root)
    found = [
        verify_checkpoint(each) for each in ([read_header(root)] if is_single else list_checkpoints(root, best=True))
    ]
    if found:
        _print_columns([COLUMNS, *(_row(each, root) for each in found)])
    complete = [each for each in found if not each.problem]
    if not complete:
        print(f"no complete checkpoint in {root}")
        return 1
    latest = complete[0] if is_single else latest_checkpoint(root, warn=lambda text: None)  # the list has the warnings
    if latest is not None:
        print(f"to resume from step {latest.step}: framefold fit --resume {shlex.quote(str(latest.path))} ...")
    return 0


def _row(checkpoint: Checkpoint, root: Path) -> list[str]:
    path = checkpoint.path
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return [
        str(path.relative_to(root) if path != root else path.name),
        str(checkpoint.step) if checkpoint.step >= 0 else "?",
        checkpoint.kind,
        checkpoint.strategy or "?",
        "any" if checkpoint.kind == "universal" else str(checkpoint.world_size or "?"),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(checkpoint.saved)),
        f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB",
        f"DAMAGED: {checkpoint.problem}" if checkpoint.problem else "complete",
    ]


def _print_columns(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{text:{'>' if name in NUMBERS else '<'}{width}}"
            for name, text, width in zip(COLUMNS, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def universal(checkpoint: str, out: str) -> None:
    """Convert a DeepSpeed checkpoint so that any number of ranks and any stage of ZeRO can resume from it.

    ``framefold fit --resume DIR`` accepts the result.

    Args:
        checkpoint: DeepSpeed checkpoint, or a run folder, of which the latest complete checkpoint is converted.
        out: folder to write.

    Raises:
        CheckpointError: there is no complete DeepSpeed checkpoint.
        ConfigError: the output folder exists.
        OSError: the folder cannot be written.
    """
    source = _complete_path(checkpoint)
    found = read_header(source)
    if found.kind != "deepspeed":
        reason = ", and this one fits any number of ranks as it is" if found.kind in ("universal", "file") else ""
        raise CheckpointError(f"{source} is of kind {found.kind}: only DeepSpeed checkpoints are converted{reason}")
    about = {"kind": "universal", "step": found.step, "strategy": found.strategy, "world_size": found.world_size}

    def write(folder: Path) -> None:
        convert_to_universal(source, folder / "checkpoint")
        files = [file for file in folder.rglob("*") if file.is_file()]
        write_manifest(folder, about, {str(file.relative_to(folder)): size_and_crc(file) for file in files})

    _new_folder(Path(out), write)
    text = f"checkpoint: converted {source}, step {found.step}, to {out}, for any number of ranks"
    print(f"{text}: framefold fit --resume {shlex.quote(out)} ...")


def consolidate(checkpoint: str, out: str) -> None:
    """Write the trained weights of a checkpoint of any strategy as plain safetensors.

    ``model.safetensors`` contains the weights of the compressor under their own names, ``lora.safetensors`` those of
    LoRA, if any, under PEFT's names, and ``checkpoint.json`` describes the run. For DeepSpeed, the weights are the fp32
    copies of its optimizer, which its own zero_to_fp32 assembles with restricted unpickling.

    Args:
        checkpoint: checkpoint of any strategy, or a run folder, of which the latest complete checkpoint is read.
        out: folder to write.

    Raises:
        CheckpointError: there is no complete checkpoint.
        ConfigError: the output folder exists.
        OSError: the folder cannot be written.
    """
    source = _complete_path(checkpoint)
    found, state, hyper = read_header(source), trained_weights(source), read_run_state(source)["hyper_parameters"]

    def write(folder: Path) -> None:
        for name, prefix in ((COMPRESSOR, PREFIX), (LORA, LORA_PREFIX)):
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if part or prefix == PREFIX:
                save_file({key: value.contiguous().clone() for key, value in part.items()}, folder / name)
        about: dict[str, Any] = {"step": found.step, "strategy": found.strategy, "world_size": found.world_size}
        about |= {key: hyper.get(key) for key in HYPER_PARAMETERS}
        (folder / ABOUT).write_text(json.dumps(about, indent=2, default=str) + "\n")

    _new_folder(Path(out), write)
    print(f"checkpoint: wrote {len(state)} tensors of {source}, step {found.step}, to {out}")


def _complete_path(checkpoint: str) -> Path:
    """Return the path of the checkpoint, or of the latest one in a run folder, after reading every byte of it."""
    path = Path(checkpoint)
    is_single = path.exists() and is_checkpoint(path)
    found = verify_checkpoint(read_header(path)) if is_single else latest_checkpoint(path)
    if found is None:
        raise CheckpointError(
            f"there is no complete checkpoint in {path}: give a checkpoint, or the folder of a 'framefold fit' run"
        )
    if found.problem:
        raise CheckpointError(f"{path} cannot be used: {found.problem}")
    return found.path


def _new_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Create a folder atomically: it is complete, or it does not exist."""
    if path.exists():
        raise ConfigError(f"{path} exists already: give another --out")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    new_parents = [folder for folder in path.parents if not folder.exists()]
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for inner in [*temporary.rglob("*"), temporary]:
            fsync_path(inner)
        os.replace(temporary, path)
        fsync_path(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in new_parents:
            with suppress(OSError):  # another process may have written to it
                folder.rmdir()
        raise
