"""Writing and checking webdataset shards: tar files of mp4 + json samples, with an index of how many are in each.

A shard is written beside its place and renamed, and the index comes last: an interrupted run leaves no half shard, and
the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import webdataset as wds
from filelock import FileLock, Timeout
from tqdm import tqdm

from .difficulty import Difficulty, difficulty_of
from .errors import DataError
from .samples import Recipe, length_range, pack, unpack
from .synthetic import SCHEMA_VERSION

FORMAT = 1
INDEX, STARTED = "index.json", ".started.json"


@dataclass(frozen=True)
class Shard:
    """A tar file and the number of samples in it."""

    path: str
    samples: int


def synth(
    out: str,
    videos: int = 256,
    frames: list[int] = [32, 64],  # noqa: B006 (the signature is the command line)
    seed: int = 0,
    split: str = "train",
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    shard_size: int = 64,
    crf: int = 18,
    workers: int = 1,
) -> None:
    """Write synthetic long videos with questions as webdataset shards.

    Args:
        out: folder for the shards and their index.
        videos: how many.
        frames: shortest and longest video; one number for a single length.
        seed: another seed gives other videos.
        split: train, val or test; videos of different splits are never the same.
        difficulty: easy, hard, or settings of data.difficulty.Difficulty.
        style: normal, or held_out for other glyphs and textures.
        shard_size: videos per shard.
        crf: H.264 quality, 1 (best) to 51; 0 stores the frames without loss.
        workers: processes that write shards at the same time.

    Raises:
        DataError: a setting out of range, or a folder that holds something else.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    recipe = Recipe(length_range(frames), seed, split, difficulty, style)
    if videos < 1 or shard_size < 1 or workers < 1:
        raise DataError(f"videos, shard_size and workers must be positive, got {videos}, {shard_size}, {workers}")
    plain = {"frames": list(recipe.frames), "difficulty": difficulty_of(difficulty).plain()}
    settings = asdict(recipe) | plain | {"videos": videos, "shard_size": shard_size, "crf": crf}
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        if not _begin(folder, settings):
            print(f"{out} is complete: {videos} videos in {-(-videos // shard_size)} shards")
            return
        spans = [(first, min(first + shard_size, videos)) for first in range(0, videos, shard_size)]
        tasks = [(folder / f"shard-{i:06d}.tar", recipe, span, crf) for i, span in enumerate(spans)]
        counts = dict(tqdm(_written(tasks, workers), total=len(tasks), desc=f"shards {out}", unit="shard"))
        _finish(folder, settings, counts)


def _written(tasks: list[tuple[Path, Recipe, tuple[int, int], int]], workers: int) -> Iterator[tuple[str, int]]:
    """(file name, samples) of each shard, in order, as it gets ready."""
    if workers == 1:
        yield from map(_write_shard, tasks)
        return
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(_write_shard, tasks)
    finally:  # Ctrl-C: what is being written gets finished (seconds), the rest is not begun
        pool.shutdown(cancel_futures=True)


def _write_shard(task: tuple[Path, Recipe, tuple[int, int], int]) -> tuple[str, int]:
    path, recipe, (first, end), crf = task
    if path.exists():  # of an earlier run with the same settings; it was renamed only when it was whole
        return path.name, end - first
    beside = path.with_name(f".{path.name}.part")
    try:
        with open(beside, "wb") as file:
            # No time and no user in the tar headers: the same settings give the same bytes.
            with wds.TarWriter(file, encoder=False, mtime=0, user="", group="") as tar:
                for index in range(first, end):
                    tar.write(
                        {"__key__": f"{recipe.split}-{recipe.seed}-{index:08d}", **pack(recipe.video(index), crf)}
                    )
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error
    finally:
        beside.unlink(missing_ok=True)
    return path.name, end - first


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise DataError(f"another process is writing to {folder}: wait for it or choose another folder") from error


def _begin(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether anything is left to write; the settings are noted down before the first shard.

    Raises:
        DataError: the folder holds something else.
    """
    for name in (INDEX, STARTED):
        file = folder / name
        if file.exists():
            found = _read_json(file).get("settings")
            if found != settings:
                shown = ", ".join(
                    f"{k}={(found or {}).get(k)}" for k, v in settings.items() if (found or {}).get(k) != v
                )
                raise DataError(f"{folder} holds shards of other settings ({shown}): choose another --out or delete it")
            if name == STARTED:
                return True
            return any(not Path(shard.path).is_file() for shard in read_index(folder))
    if any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no shards of 'framefold shards': choose another --out")
    _write_json(folder / STARTED, {"framefold_shards": FORMAT, "settings": settings})
    return True


def _finish(folder: Path, settings: dict[str, Any], counts: dict[str, int]) -> None:
    shards = [{"file": name, "samples": n, "bytes": (folder / name).stat().st_size} for name, n in counts.items()]
    head = {"framefold_shards": FORMAT, "schema": SCHEMA_VERSION, "settings": settings}
    _write_json(folder / INDEX, head | {"samples": sum(counts.values()), "shards": shards})
    (folder / STARTED).unlink(missing_ok=True)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(beside, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error
    finally:
        beside.unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("framefold_shards") != FORMAT:
        raise DataError(f"{path} is no index of format {FORMAT}; write the shards again with 'framefold shards synth'")
    return content


def read_index(folder: str | os.PathLike[str]) -> list[Shard]:
    """The shards of a folder, in order of their names.

    Raises:
        DataError: no such folder, no shards in it, writing has not finished, or a damaged index.
    """
    path = Path(folder)
    make = f"make some with 'framefold shards synth --out {path}'"
    if not path.is_dir():
        raise DataError(f"no shard folder {path}: {make}")
    if (path / STARTED).exists() and not (path / INDEX).exists():
        raise DataError(f"the shards in {path} are not finished: run the same 'framefold shards synth' again")
    if not (path / INDEX).exists():
        raise DataError(f"{path} holds no {INDEX}: {make}")
    try:
        shards = [Shard(str(path / s["file"]), int(s["samples"])) for s in _read_json(path / INDEX)["shards"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path / INDEX} is damaged: {error!r}") from error
    if not sum(shard.samples for shard in shards):
        raise DataError(f"{path / INDEX} lists no samples: {make}")
    return shards


def check(shards: str) -> int:
    """Open everything in a shard folder, and name and count the damage.

    Args:
        shards: folder that ``framefold shards synth`` wrote.

    Returns:
        0 if everything is whole, 1 otherwise.

    Raises:
        DataError: no such folder, or no shards in it.
    """
    index = read_index(shards)
    good, problems = 0, []
    with tqdm(total=sum(shard.samples for shard in index), desc=f"check {shards}", unit="video") as bar:
        for shard in index:
            found = 0
            for sample in wds.tariterators.tarfile_samples([{"url": shard.path}], handler=lambda error: True):
                found += 1
                bar.update()
                try:
                    unpack(sample["__key__"], sample)
                    good += 1
                except DataError as error:
                    problems.append(str(error))
            if found != shard.samples:
                problems.append(f"{shard.path}: {found} of {shard.samples} samples can be read")
    print("\n".join([*problems, f"{good} of {sum(shard.samples for shard in index)} samples are whole"]))
    return 1 if problems else 0
