"""Checkpoints on disk: which there are, whether they are whole, and how far each has come.

A checkpoint is one file (one process, DDP, FSDP2 as a rule) or a folder (DeepSpeed, FSDP2 in shards). Files are zip
archives with a CRC of every entry, which torch writes; folders get a manifest of sizes and CRCs when they are whole.
Nothing that is read here runs code: torch loads tensors, numbers and text only.
"""

from __future__ import annotations

import json
import os
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from framefold.errors import CheckpointError

MANIFEST = "manifest.json"

LATEST = ("latest_universal", "latest")  # files in which DeepSpeed names the folder of the others

META = "meta.pt"  # where Lightning puts it under FSDP2

CHUNK = 1 << 22

ZIP = b"PK\3\4"  # how files of torch begin

PART, OLD = "part", "old"  # ends of the hidden names beside a checkpoint that is being replaced

SLURM = "hpc_ckpt_"  # how Lightning calls what it saves when SLURM takes the machine away


@dataclass(frozen=True)
class Checkpoint:
    """What can be said of a checkpoint without reading its weights.

    Attributes:
        path: file or folder.
        kind: file, deepspeed, universal or fsdp2.
        step: optimizer steps done; -1 where it cannot be read.
        world_size: ranks that wrote it; 0 where it is not known. strategy: as it is called on the command line.
        saved: time of the last change, seconds.
        problem: why it is not whole; "" if nothing is known against it.
    """

    path: Path
    kind: str
    step: int = -1
    world_size: int = 0
    strategy: str = ""
    saved: float = 0.0
    problem: str = ""


def hidden(place: Path, end: str) -> Path:
    """The name beside a checkpoint's for a half-written one ("part") or one that is being replaced ("old").

    It has no "hpc_ckpt_" in it: Lightning takes every file with that for a checkpoint.
    """
    return place.with_name(f".{place.name.replace(SLURM, 'slurm-')}.{end}")


def peek(path: Path) -> Checkpoint:
    """What a file or folder says of itself, in little time; :func:`verify` finds out whether it is true."""
    kind = _kind(path)
    saved = _saved(path, kind)
    try:
        about = read_manifest(path) if path.is_dir() else _about_file(path)
        return Checkpoint(
            path, str(about.get("kind", kind)), about["step"], about["world_size"], about["strategy"], saved
        )
    except (CheckpointError, OSError) as error:
        return Checkpoint(path, kind, saved=saved, problem=str(error))


def verify(found: Checkpoint) -> Checkpoint:
    """The same with its problem, after every byte was read."""
    if found.problem:
        return found
    try:
        problem = _check_folder(found.path) if found.path.is_dir() else _check_file(found.path)
    except OSError as error:
        problem = f"cannot be read: {error}"
    return replace(found, problem=problem)


def find_checkpoints(root: Path, best: bool = False) -> list[Checkpoint]:
    """Checkpoints below a folder, in all its versions, the furthest first, of those the latest; not yet checked.

    Names that a kill leaves behind (``.last.ckpt.part``, ``.previous.ckpt.old``) count: what has them may be whole.

    Args:
        best: also those of the best validation, which a run does not go on from.
    """
    places: list[Path] = []
    for folder, folders, files in os.walk(root):
        names = [name for name in [*folders, *files] if _is_named_so(name, best)]
        places += [Path(folder, name) for name in names]
        folders[:] = sorted(set(folders) - set(names))  # what is inside of a checkpoint is none
    return sorted(map(peek, places), key=lambda found: (found.step, found.saved), reverse=True)


def newest(root: Path, by_time: bool = False, warn: Callable[[str], Any] = warnings.warn) -> Checkpoint | None:
    """The whole checkpoint below a folder that has come furthest.

    Args:
        by_time: the one that was written last instead.
        warn: called with a sentence about each damaged one that was left out.
    """
    candidates = find_checkpoints(root)
    if by_time:
        candidates.sort(key=lambda found: found.saved, reverse=True)
    for found in candidates:
        if found.problem and not found.path.name.startswith("."):  # hidden ones are what a kill leaves
            warn(f"damaged checkpoint left out: {found.problem}")
    for found in candidates:
        if found.problem or (found.step < 0 and not by_time):  # nobody can say how far that one has come
            continue
        if not (found := verify(found)).problem:
            return found
        warn(f"damaged checkpoint left out: {found.path}: {found.problem}")
    return None


def is_checkpoint(path: Path) -> bool:
    """Whether something is a checkpoint itself, whole or not, rather than a folder of runs."""
    return path.is_file() or path.suffix == ".ckpt" or any((path / name).exists() for name in (MANIFEST, META, *LATEST))


def _is_named_so(name: str, best: bool) -> bool:
    plain = name.removeprefix(".").removesuffix(f".{PART}").removesuffix(f".{OLD}")
    if not plain.endswith(".ckpt") or (name.startswith(".") == name.endswith(".ckpt")):
        return False
    return best or plain.startswith(("last", "previous", SLURM, "slurm-"))


def _kind(path: Path) -> str:
    if not path.is_dir():
        return "file"
    return "fsdp2" if (path / META).exists() else "deepspeed"


def _saved(path: Path, kind: str) -> float:
    for place in (path / MANIFEST, path) if kind != "file" else (path,):
        try:
            return place.stat().st_mtime
        except OSError:
            continue
    return 0.0


def read_file(path: Path) -> dict[str, Any]:
    """The content of a file that torch wrote; tensors stay on disk until they are used.

    Raises:
        CheckpointError: damaged, or more in it than tensors, numbers, text and containers of them.
        OSError: it is not there.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(ZIP))
        if start != ZIP:
            is_what = "it begins in another way than what torch writes" if start else "it is empty"
            raise CheckpointError(f"{path} is no checkpoint: {is_what}")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever the damaged bytes lead to
        if isinstance(error, OSError) and error.filename is not None:  # without one, it is torch's: a file too short
            raise
        text = " ".join(str(error).split()).partition(". ")[0][:200]  # torch goes on about switching its guard off
        raise CheckpointError(f"{path} is damaged or no checkpoint: {type(error).__name__}: {text}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no checkpoint: it holds {type(content).__name__}")
    return content


def _about_file(path: Path) -> dict[str, Any]:
    content = read_file(path)
    written = content.get("written_by")
    written = written if isinstance(written, dict) else {}
    step, world = content.get("global_step", -1), written.get("world_size", 0)
    if not isinstance(step, int) or not isinstance(world, int) or "state_dict" not in content:
        raise CheckpointError(f"{path} is no checkpoint of a training")
    return {"kind": "file", "step": step, "world_size": world, "strategy": str(written.get("strategy", ""))}


def _check_file(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # whatever the damaged bytes lead to
        return f"it is no whole zip archive: {error}"
    return f"the CRC of {wrong} is wrong" if wrong is not None else ""


def crc(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    size = value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, value = size + len(chunk), zlib.crc32(chunk, value)
    return [size, value]


def write_manifest(folder: Path, about: Mapping[str, Any], files: Mapping[str, list[int]]) -> None:
    """Say that a folder is whole, as the last thing that is written into it.

    Args:
        about: kind, step, world_size, strategy. files: relative path -> size and CRC.
    """
    content = {**about, "files": dict(sorted(files.items()))}
    with open(folder / MANIFEST, "w") as file:
        json.dump({**content, "crc": _own_crc(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict[str, Any]:
    """What :func:`write_manifest` wrote.

    Raises:
        CheckpointError: none there, or a damaged one.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text())
        own = content.pop("crc")
        if own != _own_crc(content) or not isinstance(content["files"], dict):
            raise ValueError("its CRC is wrong")
        numbers = content["step"], content["world_size"]
        if not all(isinstance(number, int) for number in numbers) or not isinstance(content["strategy"], str):
            raise ValueError("its fields are of the wrong type")
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} was not written to the end: there is no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error}") from error
    return content


def _own_crc(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _check_folder(folder: Path) -> str:
    for name, (size, value) in read_manifest(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
        if crc(file)[1] != value:
            return f"the CRC of {name} is wrong"
    return ""
