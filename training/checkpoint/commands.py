"""``framefold checkpoint``: what checkpoints a run has, and other forms of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors.torch import save_file

from framefold.errors import CheckpointError, ConfigError

from .inventory import Checkpoint, crc, find_checkpoints, is_checkpoint, newest, peek, verify, write_manifest
from .read import LORA_PREFIX, PREFIX, content, weights
from .universal import convert

COMPRESSOR, LORA, ABOUT = "model.safetensors", "lora.safetensors", "checkpoint.json"

HEAD = ["checkpoint", "step", "kind", "strategy", "ranks", "written", "size", "state"]

NUMBERS = ("step", "ranks", "size")

TOLD = ("compressor", "budget", "params", "host", "lora", "losses", "lr")  # of the hyper-parameters


def listing(run: str) -> int:
    """List the checkpoints below a run folder, the furthest first, after reading all of each.

    Args:
        run: folder of one or more runs, or a checkpoint.

    Returns:
        0, or 1 if none of them is whole.

    Raises:
        CheckpointError: there is no such place.
    """
    root = Path(run)
    if not root.exists():
        raise CheckpointError(f"there is no {root}: give the folder of a 'framefold fit' run, or a checkpoint")
    itself = is_checkpoint(root)
    found = [verify(one) for one in ([peek(root)] if itself else find_checkpoints(root, best=True))]
    if found:
        _print_columns([HEAD, *(_row(one, root) for one in found)])
    whole = [one for one in found if not one.problem]
    if not whole:
        print(f"no whole checkpoint in {root}")
        return 1
    furthest = whole[0] if itself else newest(root, warn=lambda text: None)  # which the list has said already
    if furthest is not None:
        print(f"to go on from step {furthest.step}: framefold fit --resume {shlex.quote(str(furthest.path))} ...")
    return 0


def _row(one: Checkpoint, root: Path) -> list[str]:
    files = [one.path] if one.path.is_file() else [file for file in one.path.rglob("*") if file.is_file()]
    return [
        str(one.path.relative_to(root) if one.path != root else one.path.name),
        str(one.step) if one.step >= 0 else "?",
        one.kind,
        one.strategy or "?",
        "any" if one.kind == "universal" else str(one.world_size or "?"),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(one.saved)),
        f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB",
        f"DAMAGED: {one.problem}" if one.problem else "whole",
    ]


def _print_columns(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{text:{'>' if name in NUMBERS else '<'}{width}}"
            for name, text, width in zip(HEAD, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def universal(checkpoint: str, out: str) -> None:
    """Make a DeepSpeed checkpoint that any number of ranks and any stage of ZeRO can go on from.

    ``framefold fit --resume DIR`` takes it.

    Args:
        checkpoint: of a run with DeepSpeed, or a run folder, whose furthest one is then taken.
        out: folder to write.

    Raises:
        CheckpointError: no whole checkpoint of DeepSpeed there.
        ConfigError: there is something at that place already.
        OSError: it cannot be written.
    """
    source = _whole(checkpoint)
    found = peek(source)
    if found.kind != "deepspeed":
        more = ", and this one fits any number of ranks as it is" if found.kind in ("universal", "file") else ""
        raise CheckpointError(f"{source} is of kind {found.kind}: only what DeepSpeed wrote is converted{more}")
    about = {"kind": "universal", "step": found.step, "strategy": found.strategy, "world_size": found.world_size}

    def write(folder: Path) -> None:
        convert(source, folder / "checkpoint")
        files = [file for file in folder.rglob("*") if file.is_file()]
        write_manifest(folder, about, {str(file.relative_to(folder)): crc(file) for file in files})

    _new_folder(Path(out), write)
    said = f"checkpoint: {out} holds {source}, step {found.step}, for any number of ranks"
    print(f"{said}: framefold fit --resume {shlex.quote(out)} ...")


def consolidate(checkpoint: str, out: str) -> None:
    """Write the trained weights of a checkpoint of any strategy as plain safetensors.

    ``model.safetensors`` has the compressor's under their own names, ``lora.safetensors`` LoRA's, if there is any,
    under those that PEFT saves, and ``checkpoint.json`` what they are of. What DeepSpeed trained is the fp32 of its
    optimizer; its own zero_to_fp32 puts it together, kept from unpickling anything else.

    Args:
        checkpoint: of any strategy, or a run folder, whose furthest one is then taken.
        out: folder to write.

    Raises:
        CheckpointError: no whole checkpoint there.
        ConfigError: there is something at that place already.
        OSError: it cannot be written.
    """
    source = _whole(checkpoint)
    found, state, hyper = peek(source), weights(source), content(source)["hyper_parameters"]

    def write(folder: Path) -> None:
        for name, prefix in ((COMPRESSOR, PREFIX), (LORA, LORA_PREFIX)):
            part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
            if part or prefix == PREFIX:
                save_file({key: value.contiguous().clone() for key, value in part.items()}, folder / name)
        about = {"step": found.step, "strategy": found.strategy, "world_size": found.world_size}
        told = {key: hyper.get(key) for key in TOLD}
        (folder / ABOUT).write_text(json.dumps({**about, **told}, indent=2, default=str) + "\n")

    _new_folder(Path(out), write)
    print(f"checkpoint: {len(state)} tensors of {source}, step {found.step}, are in {out}")


def _whole(checkpoint: str) -> Path:
    """The checkpoint that is meant, after every byte was read."""
    path = Path(checkpoint)
    found = verify(peek(path)) if path.exists() and is_checkpoint(path) else newest(path)
    if found is None:
        raise CheckpointError(f"no whole checkpoint at {path}: give one, or the folder of a 'framefold fit' run")
    if found.problem:
        raise CheckpointError(f"{path} cannot be used: {found.problem}")
    return found.path


def _new_folder(place: Path, write: Callable[[Path], None]) -> None:
    """A folder that is whole or not there."""
    if place.exists():
        raise ConfigError(f"{place} is there already: give another --out")
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    new = [folder for folder in place.parents if not folder.exists()]
    beside.mkdir(parents=True)
    try:
        write(beside)
        for inner in [*beside.rglob("*"), beside]:
            _sync(inner)
        os.replace(beside, place)
        _sync(place.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        for folder in new:
            with suppress(OSError):  # somebody else has put something there
                folder.rmdir()
        raise


def _sync(place: Path) -> None:
    handle = os.open(place, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
