"""DeepSpeed's universal checkpoints, for any number of ranks and any stage of ZeRO.

DeepSpeed's own converter and loader do the work; both are kept from unpickling anything but what checkpoints are made
of. Added is what they lack: names of weights that lead nowhere else, the files that the other stages look for, and a
loader that leaves every group of parameters its own step, settings and right to be empty on a rank.
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

from .inventory import read_file
from .read import UNIVERSAL, escaped_path, only_tensors, silence, tag_folder

OPTIMIZER, STEP = "optimizer_state.pt", "step.pt"

MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")  # of ZeRO-1 and 2, of ZeRO-3


def convert(source: Path, out: Path) -> None:
    """Write the universal form of a DeepSpeed checkpoint into a new folder, and its name beside it.

    Raises:
        CheckpointError: DeepSpeed cannot convert it, or it holds something else than a checkpoint.
        OSError: it cannot be written.
    """
    try:
        with only_tensors(), silence(), escaped_path(tag_folder(source)) as link, escaped_path(out.parent) as place:
            from deepspeed.checkpoint import ds_to_universal

            _only_names(tag_folder(source))
            places = {"input_folder": str(link), "output_folder": str(place / out.name)}
            workers: dict[str, Any] = {"num_extract_workers": 1, "num_merge_workers": 1}
            ds_to_universal.main(
                argparse.Namespace(**places, **workers, keep_temp_folder=False, strict=True, inject_missing_state=True)
            )
            _for_every_stage(out)
    except (FramefoldError, OSError, ImportError):
        raise
    except Exception as error:  # whatever the damaged bytes lead to
        text = " ".join(str(error).split()).partition(". ")[0][:200]  # torch goes on about switching its guard off
        raise CheckpointError(f"DeepSpeed cannot convert {source}: {type(error).__name__}: {text}") from error


def _only_names(folder: Path) -> None:
    """Refuse weights that are called like a place outside: the converter makes a folder of each name."""
    for file in folder.glob("*_states.pt"):
        state = read_file(file)
        groups = [*(state.get("param_shapes") or []), state.get("module") or {}]
        groups += (state.get("optimizer_state_dict") or {}).get("param_slice_mappings") or []
        for name in {name for group in groups for name in group}:
            if Path(name).name != name or name in ("", ".."):
                raise CheckpointError(f"{file.name} has a weight called {name!r}, which is no name of a weight")


def _for_every_stage(folder: Path) -> None:
    """Add what ZeRO-3 looks for in what ZeRO-1 or 2 wrote, and the other way round."""
    import deepspeed

    here = next(name for name in MODEL_FILES if (folder / name).exists())
    for other in set(MODEL_FILES) - {here}:
        shutil.copyfile(folder / here, folder / other)
    place = folder / UNIVERSAL / OPTIMIZER
    state = torch.load(place, weights_only=True)
    names = [name for group in read_file(folder / here)["param_shapes"] for name in group]
    if here == MODEL_FILES[0]:
        step = torch.load(folder / UNIVERSAL / names[0] / STEP, weights_only=True)
    else:
        step = state.pop("optimizer_state_dict")["state"][0]["step"]
        state.pop("fp32_flat_groups")  # rank 0's part of what is in the files of the weights
        for group in read_file(folder / here)["param_shapes"]:
            for name, shape in group.items():
                _as_of_zero_2(folder / UNIVERSAL / name, shape, step)
    common = {"state": {0: {"step": step}}, "param_groups": state["param_groups"]}
    torch.save({"ds_version": deepspeed.__version__, **state, "optimizer_state_dict": common}, place)


def _as_of_zero_2(weight: Path, shape: torch.Size, step: Any) -> None:
    """The files of a weight with a name and a shape on each tensor, and with a step; ZeRO-3 can read them, too."""
    for file in list(weight.iterdir()):
        torch.save({"param": torch.load(file, weights_only=True).view(shape)}, file)
    torch.save(step, weight / STEP)


@contextmanager
def group_by_group(optimizer: Any) -> Iterator[None]:
    """While DeepSpeed loads: groups of which this rank has nothing are left out, and the others kept apart.

    Its loader for ZeRO-1 and 2 fails on a rank that owns nothing of a group, as happens to small groups on many ranks.
    That for ZeRO-3 gives all groups one tensor of a step, which each of them then counts up, and the settings of the
    first of them.
    """
    groups = optimizer.param_groups
    own = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    name = "load_hp_checkpoint_state_from_checkpoint_dir"
    load = getattr(optimizer, name, None)
    if load is not None:
        setattr(optimizer, name, lambda *args: _without_empty(optimizer, load, *args))
    try:
        yield
    finally:
        if load is not None:
            delattr(optimizer, name)
    for group, settings in zip(groups, own, strict=True):
        group.update(settings)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()


def _without_empty(optimizer: Any, load: Any, *args: Any) -> None:
    inner, groups, parameters = optimizer.optimizer, optimizer.optimizer.param_groups, optimizer.bit16_groups
    mine = [any(p._hp_mapping is not None for p in part) for part in parameters]
    inner.param_groups = [group for group, is_mine in zip(groups, mine, strict=True) if is_mine]
    optimizer.bit16_groups = [part for part, is_mine in zip(parameters, mine, strict=True) if is_mine]
    try:
        load(*args)
    finally:
        inner.param_groups, optimizer.bit16_groups = groups, parameters
