"""``framefold checkpoint``: what checkpoints a run has, and other forms of them."""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..adapters.errors import ConfigError
from .checkpoint_content import LORA_PREFIX, PREFIX, content, only_tensors, silence, tag_folder, weights
from .checkpoints import CheckpointError, check, crc, find, is_checkpoint, newest, peek, write_manifest

COMPRESSOR, LORA, ABOUT = "model.safetensors", "lora.safetensors", "checkpoint.json"
TOLD = ("compressor", "budget", "params", "host", "lora", "losses", "lr")  # of the hyper-parameters


def listing(run: str) -> int:
    """Name the checkpoints below a run folder, the furthest first, after reading all of each.

    Args:
        run: folder of one or more runs, or a checkpoint.

    Returns:
        0, or 1 if none of them is whole.
    """
    root = Path(run)
    found = [check(one) for one in ([peek(root)] if root.exists() and is_checkpoint(root) else find(root, best=True))]
    for one in found:
        ranks = "" if one.kind == "universal" else f" on {one.world_size or '?'}"
        state = f"DAMAGED: {one.problem}" if one.problem else "whole"
        print(f"{one.path}  step {one.step}, {one.kind}, {one.strategy or 'strategy unknown'}{ranks}, {state}")
    if not any(not one.problem for one in found):
        print(f"no whole checkpoint in {root}")
        return 1
    return 0


def universal(checkpoint: str, out: str) -> None:
    """Make a DeepSpeed checkpoint that any number of ranks and any stage of ZeRO can go on from.

    ``framefold fit --resume DIR`` takes it. DeepSpeed's own converter does the work (deepspeed.checkpoint); it is kept
    from unpickling anything but tensors, numbers, text and the classes of its own checkpoints.

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
        raise CheckpointError(f"{source} is of kind {found.kind}: only checkpoints that DeepSpeed wrote are converted")
    about = {"kind": "universal", "step": found.step, "strategy": found.strategy, "world_size": found.world_size}

    def convert(folder: Path) -> None:
        with only_tensors(), silence():
            from deepspeed.checkpoint import ds_to_universal

            place = {"input_folder": str(tag_folder(source)), "output_folder": str(folder / "checkpoint")}
            workers: dict[str, Any] = {"num_extract_workers": 1, "num_merge_workers": 1}
            ds_to_universal.main(
                argparse.Namespace(**place, **workers, keep_temp_folder=False, strict=True, inject_missing_state=True)
            )
        files = [file for file in folder.rglob("*") if file.is_file()]
        write_manifest(folder, about, {str(file.relative_to(folder)): crc(file) for file in files})

    _new_folder(Path(out), convert)
    print(f"checkpoint: {out} holds {source}, step {found.step}, for any number of ranks: framefold fit --resume {out}")


def consolidate(checkpoint: str, out: str) -> None:
    """Write the trained weights of a checkpoint of any strategy as plain safetensors.

    ``model.safetensors`` has the compressor's under their own names, ``lora.safetensors`` LoRA's, if there is any,
    under those that PEFT saves, and ``checkpoint.json`` what they are of. What DeepSpeed trained is the fp32 of its
    optimizer; its own zero_to_fp32 puts it together, kept from unpickling as in 'framefold checkpoint universal'.

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
    found = check(peek(path)) if path.exists() and is_checkpoint(path) else newest(path)
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
    beside.mkdir(parents=True)
    try:
        write(beside)
        os.replace(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
