"""The verb ``framefold shards check``: open everything, and name and count what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm
from webdataset.tariterators import tarfile_samples

from framefold.errors import DataError

from .index import Shard
from .sample import unpack
from .sources import opened, reason, resolve_shards


def check_shards(shards: str, index: str | None = None) -> int:
    """Open everything in shards, and name and count the damage.

    Args:
        shards: folder that ``framefold shards`` wrote, tar files, globs, brace lists, URLs or ``pipe:`` commands.
        index: file or URL of their index, where none is beside them.

    Returns:
        0 if everything is whole, 1 otherwise.

    Raises:
        DataError: nothing there, or no index where one is needed.
    """
    found = resolve_shards(shards, index)
    good, problems, keys = 0, list[str](), Counter[str]()
    with tqdm(total=found.samples, desc=f"check {shards}", unit="sample") as bar:
        for shard in found.shards:
            for key, problem in _look_through(shard):
                keys[key] += bool(key)
                problems += filter(None, [problem])
                good += not problem
                bar.update(bool(key))
    problems += [f"{key} comes {count} times" for key, count in keys.items() if count > 1]
    print("\n".join([*problems, f"{good} of {found.samples} samples are whole"]))
    return 1 if problems else 0


def _look_through(shard: Shard) -> Iterator[tuple[str, str]]:
    """(key, problem) of each sample, "" where there is none, and in the end of the shard as such."""
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return True

    count = 0
    for count, raw in enumerate(tarfile_samples([{"url": opened(shard.path)}], handler=note), start=1):
        yield str(raw["__key__"]), _problem(raw, shard, count - 1)
    if errors or count != shard.samples:
        yield "", f"{shard.path}: {count} of {shard.samples} samples can be read{reason(errors)}"


def _problem(raw: dict[str, Any], shard: Shard, place: int) -> str:
    try:
        sample = unpack(raw["__key__"], raw)
    except DataError as error:
        return str(error)
    known = shard.lengths[place] if place < len(shard.lengths) else sample.length
    if sample.length != known:
        return f"{sample.key} has length {sample.length}, the index of {shard.path} says {known}"
    return ""
