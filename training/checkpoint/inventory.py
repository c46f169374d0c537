"""Checkpoints on disk: find them, check that they are complete and undamaged, and order them by training step.

A checkpoint is a file (one process, DDP, and FSDP2 by default) or a folder (DeepSpeed, and FSDP2 with sharded
checkpoints). A file is a zip archive written by torch, with a CRC of every entry. A folder gets a manifest of sizes and
CRCs once all its files are written. Reading never runs code: torch loads only tensors, numbers and text.
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
LATEST_FILES = ("latest_universal", "latest")  # written by DeepSpeed, with the name of the folder of the other files
METADATA_FILE = "meta.pt"  # written by Lightning under FSDP2
ZIP_SIGNATURE = b"PK\3\4"  # first bytes of a file that torch wrote
CHUNK = 1 << 22  # bytes
PARTIAL, REPLACED = "part", "old"  # suffixes of the hidden names used while a checkpoint is replaced
SLURM_PREFIX = "hpc_ckpt_"  # of the checkpoints that Lightning writes when SLURM ends the job


@dataclass(frozen=True)
class Checkpoint:
    """Description of a checkpoint, read without its weights.

    Attributes:
        path: file or folder.
        kind: "file", "deepspeed", "universal" or "fsdp2".
        step: number of optimizer steps done; -1 if it cannot be read.
        world_size: number of ranks that wrote it; 0 if unknown.
        strategy: name of the strategy on the command line.
        saved: time of the last change in seconds since the epoch.
        problem: why it is incomplete or damaged; "" if no problem is known.
    """

    path: Path
    kind: str
    step: int = -1
    world_size: int = 0
    strategy: str = ""
    saved: float = 0.0
    problem: str = ""


def temporary_path(path: Path, suffix: str) -> Path:
    """Return the hidden name of a checkpoint that is being written (``PARTIAL``) or replaced (``REPLACED``).

    The prefix "hpc_ckpt_" is replaced, because Lightning takes every file with it for a checkpoint.
    """
    return path.with_name(f".{path.name.replace(SLURM_PREFIX, 'slurm-')}.{suffix}")


def read_header(path: Path) -> Checkpoint:
    """Read what a checkpoint declares about itself; :func:`verify_checkpoint` reads all of it."""
    kind = _kind(path)
    saved = _saved(path, kind)
    try:
        about = read_manifest(path) if path.is_dir() else _about_file(path)
        return Checkpoint(
            path, str(about.get("kind", kind)), about["step"], about["world_size"], about["strategy"], saved
        )
    except (CheckpointError, OSError) as error:
        return Checkpoint(path, kind, saved=saved, problem=str(error))


def verify_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Read every byte of a checkpoint, and return its description with the problem that was found, if any."""
    if checkpoint.problem:
        return checkpoint
    path = checkpoint.path
    try:
        problem = _check_folder(path) if path.is_dir() else _check_file(path)
    except OSError as error:
        problem = f"cannot be read: {error}"
    return replace(checkpoint, problem=problem)


def list_checkpoints(root: Path, best: bool = False) -> list[Checkpoint]:
    """List the checkpoints below a folder in descending order of steps, then of time; they are not verified.

    The hidden names that a killed process leaves behind (``.last.ckpt.part``, ``.previous.ckpt.old``) are included:
    such a checkpoint may be complete.

    Args:
        root: folder of one or more runs.
        best: also list the checkpoints of the best validation, from which no run is resumed.
    """
    paths: list[Path] = []
    for folder, folders, files in os.walk(root):
        names = [name for name in [*folders, *files] if _is_checkpoint_name(name, best)]
        paths += [Path(folder, name) for name in names]
        folders[:] = sorted(set(folders) - set(names))  # a checkpoint contains no other checkpoints
    return sorted(map(read_header, paths), key=lambda found: (found.step, found.saved), reverse=True)


def latest_checkpoint(
    root: Path, by_time: bool = False, warn: Callable[[str], Any] = warnings.warn
) -> Checkpoint | None:
    """Return the complete checkpoint with the most steps below a folder.

    Args:
        root: folder of one or more runs.
        by_time: return the complete checkpoint that was written last instead.
        warn: called with one sentence for each damaged checkpoint that was skipped.
    """
    candidates = list_checkpoints(root)
    if by_time:
        candidates.sort(key=lambda found: found.saved, reverse=True)
    for found in candidates:
        if found.problem and not found.path.name.startswith("."):  # a hidden one is left over from a killed process
            warn(f"damaged checkpoint left out: {found.problem}")
    for found in candidates:
        if found.problem or (found.step < 0 and not by_time):  # the number of steps is unknown
            continue
        if not (found := verify_checkpoint(found)).problem:
            return found
        warn(f"damaged checkpoint left out: {found.path}: {found.problem}")
    return None


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is a checkpoint, complete or not, rather than a folder of runs."""
    markers = MANIFEST, METADATA_FILE, *LATEST_FILES
    return path.is_file() or path.suffix == ".ckpt" or any((path / name).exists() for name in markers)


def _is_checkpoint_name(name: str, best: bool) -> bool:
    plain = name.removeprefix(".").removesuffix(f".{PARTIAL}").removesuffix(f".{REPLACED}")
    if not plain.endswith(".ckpt") or (name.startswith(".") == name.endswith(".ckpt")):
        return False
    return best or plain.startswith(("last", "previous", SLURM_PREFIX, "slurm-"))


def _kind(path: Path) -> str:
    if not path.is_dir():
        return "file"
    return "fsdp2" if (path / METADATA_FILE).exists() else "deepspeed"


def _saved(path: Path, kind: str) -> float:
    for place in (path / MANIFEST, path) if kind != "file" else (path,):
        try:
            return place.stat().st_mtime
        except OSError:
            continue
    return 0.0


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """Load a file that torch wrote; tensors are memory-mapped.

    Raises:
        CheckpointError: the file is damaged, or contains other objects than tensors, numbers, text and containers.
        OSError: the file does not exist or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(ZIP_SIGNATURE))
        if start != ZIP_SIGNATURE:
            reason = "it does not start like a file that torch wrote" if start else "it is empty"
            raise CheckpointError(f"{path} is not a checkpoint: {reason}")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        if isinstance(error, OSError) and error.filename is not None:  # torch raises one without it for a short file
            raise
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint: {type(error).__name__}: {first_sentence(error)}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a checkpoint: it contains {type(content).__name__}")
    return content


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error; in torch's errors, the others explain how to disable safe loading."""
    return " ".join(str(error).split()).partition(". ")[0][:200]


def _about_file(path: Path) -> dict[str, Any]:
    content = load_checkpoint_file(path)
    written = content.get("written_by")
    written = written if isinstance(written, dict) else {}
    step, world = content.get("global_step", -1), written.get("world_size", 0)
    if not isinstance(step, int) or not isinstance(world, int) or "state_dict" not in content:
        raise CheckpointError(f"{path} is not the checkpoint of a training run")
    return {"kind": "file", "step": step, "world_size": world, "strategy": str(written.get("strategy", ""))}


def _check_file(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except Exception as error:  # damaged bytes may raise anything
        return f"it is not a complete zip archive: {error}"
    return f"the CRC of {wrong} is wrong" if wrong is not None else ""


def size_and_crc(path: Path) -> list[int]:
    """Return the size of a file in bytes and its CRC-32."""
    size = value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            size, value = size + len(chunk), zlib.crc32(chunk, value)
    return [size, value]


def write_manifest(folder: Path, about: Mapping[str, Any], files: Mapping[str, list[int]]) -> None:
    """Mark a folder as complete; the manifest is the last file written.

    Args:
        folder: the checkpoint.
        about: kind, step, world_size and strategy.
        files: size and CRC by relative path.
    """
    content = {**about, "files": dict(sorted(files.items()))}
    with open(folder / MANIFEST, "w") as file:
        json.dump({**content, "crc": _manifest_crc(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a folder.

    Raises:
        CheckpointError: the manifest is missing or damaged.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text())
        expected = content.pop("crc")
        if expected != _manifest_crc(content) or not isinstance(content["files"], dict):
            raise ValueError("its CRC is wrong")
        numbers = content["step"], content["world_size"]
        if not all(isinstance(number, int) for number in numbers) or not isinstance(content["strategy"], str):
            raise ValueError("a field has the wrong type")
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is incomplete: it has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {error}") from error
    return content


def _manifest_crc(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _check_folder(folder: Path) -> str:
    for name, (size, value) in read_manifest(folder)["files"].items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes, not {size}"
        if size_and_crc(file)[1] != value:
            return f"the CRC of {name} is wrong"
    return ""
