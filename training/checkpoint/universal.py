"""DeepSpeed's universal checkpoints, which any number of ranks and any stage of ZeRO can load.

DeepSpeed's own converter and loader do the work, and both may unpickle only what checkpoints consist of. This module
adds what they lack: it rejects names of weights that lead to other folders, writes the files that the other stages
expect, and keeps the step and the settings of every group of parameters, even if a rank owns none of the group.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from framefold.errors import CheckpointError, FramefoldError

from .inventory import first_sentence, load_checkpoint_file
from .read import UNIVERSAL, glob_safe_path, safe_deepspeed_load, suppress_output, tag_folder

OPTIMIZER, STEP = "optimizer_state.pt", "step.pt"

MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")  # ZeRO-1 and 2, ZeRO-3


def convert_to_universal(source: Path, out: Path) -> None:
    """Write the universal form of a DeepSpeed checkpoint into a new folder, and its name next to it.

    Raises:
        CheckpointError: DeepSpeed cannot convert the checkpoint, or it contains unexpected objects.
        OSError: the folder cannot be written.
    """
    try:
        with (
            safe_deepspeed_load(),
            suppress_output(),
            glob_safe_path(tag_folder(source)) as link,
            glob_safe_path(out.parent) as parent,
        ):
            from deepspeed.checkpoint import ds_to_universal

            _check_names(tag_folder(source))
            folders = {"input_folder": str(link), "output_folder": str(parent / out.name)}
            workers: dict[str, Any] = {"num_extract_workers": 1, "num_merge_workers": 1}
            ds_to_universal.main(
                argparse.Namespace(**folders, **workers, keep_temp_folder=False, strict=True, inject_missing_state=True)
            )
            _add_files_of_other_stages(out)
    except (FramefoldError, OSError, ImportError):
        raise
    except Exception as error:  # damaged bytes may raise anything
        text = f"{type(error).__name__}: {first_sentence(error)}"
        raise CheckpointError(f"DeepSpeed cannot convert {source}: {text}") from error


def _check_names(folder: Path) -> None:
    """Refuse names of weights that are paths to other folders: the converter creates a folder for each name."""
    for file in folder.glob("*_states.pt"):
        state = load_checkpoint_file(file)
        groups = [*(state.get("param_shapes") or []), state.get("module") or {}]
        groups += (state.get("optimizer_state_dict") or {}).get("param_slice_mappings") or []
        for name in {name for group in groups for name in group}:
            if Path(name).name != name or name in ("", ".."):
                raise CheckpointError(f"{file.name} has a weight called {name!r}, which is not a valid name")


def _add_files_of_other_stages(folder: Path) -> None:
    """Add the files that ZeRO-3 expects to what ZeRO-1 or 2 wrote, and vice versa."""
    import deepspeed

    here = next(name for name in MODEL_FILES if (folder / name).exists())
    for other in set(MODEL_FILES) - {here}:
        shutil.copyfile(folder / here, folder / other)
    place = folder / UNIVERSAL / OPTIMIZER
    state = torch.load(place, weights_only=True)
    names = [name for group in load_checkpoint_file(folder / here)["param_shapes"] for name in group]
    if here == MODEL_FILES[0]:
        step = torch.load(folder / UNIVERSAL / names[0] / STEP, weights_only=True)
    else:
        step = state.pop("optimizer_state_dict")["state"][0]["step"]
        state.pop("fp32_flat_groups")  # the part of rank 0, which is also in the files of the weights
        for group in load_checkpoint_file(folder / here)["param_shapes"]:
            for name, shape in group.items():
                _to_zero_2_format(folder / UNIVERSAL / name, shape, step)
    common = {"state": {0: {"step": step}}, "param_groups": state["param_groups"]}
    torch.save({"ds_version": deepspeed.__version__, **state, "optimizer_state_dict": common}, place)


def _to_zero_2_format(weight: Path, shape: torch.Size, step: Any) -> None:
    """Store the tensors of a weight by name and with its shape, and add the step; ZeRO-3 can read this form as well."""
    for file in list(weight.iterdir()):
        torch.save({"param": torch.load(file, weights_only=True).view(shape)}, file)
    torch.save(step, weight / STEP)


@contextmanager
def separate_parameter_groups(optimizer: Any) -> Iterator[None]:
    """Keep the groups of parameters separate while DeepSpeed loads, without those of which this rank owns nothing.

    DeepSpeed's loader for ZeRO-1 and 2 fails on a rank that owns nothing of a group, which happens to small groups on
    many ranks. Its loader for ZeRO-3 gives all groups the settings of the first group and one shared tensor for the
    step, which every group then increments.
    """
    groups = optimizer.param_groups
    saved = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    name = "load_hp_checkpoint_state_from_checkpoint_dir"
    load = getattr(optimizer, name, None)
    if load is not None:
        setattr(optimizer, name, lambda *args: _load_without_empty_groups(optimizer, load, *args))
    try:
        yield
    finally:
        if load is not None:
            delattr(optimizer, name)
    for group, settings in zip(groups, saved, strict=True):
        group.update(settings)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def _load_without_empty_groups(optimizer: Any, load: Any, *args: Any) -> None:
    inner, groups, parameters = optimizer.optimizer, optimizer.optimizer.param_groups, optimizer.bit16_groups
    owned = [any(p._hp_mapping is not None for p in part) for part in parameters]
    inner.param_groups = [group for group, is_owned in zip(groups, owned, strict=True) if is_owned]
    optimizer.bit16_groups = [part for part, is_owned in zip(parameters, owned, strict=True) if is_owned]
    try:
        load(*args)
    finally:
        inner.param_groups, optimizer.bit16_groups = groups, parameters
