"""The index of a shard folder: its tar files, the number of samples in each, and the length of every sample.

The index is written last, so a folder that has one is complete. An index may have been downloaded and is validated: it
can only name files in its own folder.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from framefold.errors import DataError

from .location import NOT_LOCAL, PIPE, describe_folder, local_path

FORMAT = 1

INDEX, STARTED = "index.json", ".started.json"

KINDS = VIDEOS, FEATURES = ("videos", "features")


@dataclass(frozen=True)
class Shard:
    """A tar file with samples.

    Attributes:
        path: file, URL or ``pipe:`` command.
        samples: number of samples in it.
        lengths: length of each sample, in order: frames of a video or visual tokens of features; empty if unknown.
    """

    path: str
    samples: int
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Index:
    """Contents of an index.

    Attributes:
        shards: the tar files, in order of their names.
        kind: "videos" (mp4) or "features" (videos encoded by a host).
        settings: settings of the command that wrote the shards; for features also the host.
        source: what the user named to get them.
    """

    shards: tuple[Shard, ...]
    kind: str = VIDEOS
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)


def read_shard_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a shard folder.

    Raises:
        DataError: the file cannot be read, or has another format.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return parse_shard_json(text, str(path))


def parse_shard_json(text: str | bytes, name: str) -> dict[str, Any]:
    """Parse a JSON file of a shard folder, which may come from a server.

    Args:
        text: contents of the file.
        name: file or URL, for messages.

    Raises:
        DataError: it is not a JSON object, or has another format.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("framefold_shards") != FORMAT:
        raise DataError(f"{name} is not an index of format {FORMAT}; write one with 'framefold shards index'")
    return content


def read_index(folder: str | os.PathLike[str]) -> Index:
    """Read the index of a folder.

    Raises:
        DataError: the folder does not exist, holds no shards or unfinished ones, or its index is damaged.
    """
    path = Path(folder)
    remedy = f"create some with 'framefold shards synth --out {path}'"
    if not path.is_dir():
        raise DataError(f"no shard folder {path}: {remedy}")
    if (path / STARTED).exists() and not (path / INDEX).exists():
        raise DataError(f"the shards in {path} are not finished: run the same 'framefold shards' command again")
    if not (path / INDEX).exists():
        if any(path.glob("*.tar")):
            raise DataError(f"{path} has tar files but no {INDEX}: run 'framefold shards index --shards {path}'")
        found = describe_folder(path)
        raise DataError(
            f"{path} has no {INDEX}: {remedy}" if not found else f"{path} has no shards and no {INDEX}: {found}"
        )
    return index_from_json(read_shard_json(path / INDEX), str(path / INDEX), local_path(f"{path}{os.sep}"))


def index_from_json(content: dict[str, Any], name: str, base: str) -> Index:
    """Validate the fields of an index.

    Args:
        content: the JSON object.
        name: file or URL of the index, for messages.
        base: folder or URL that precedes the names of its tar files, with its final separator.

    Raises:
        DataError: a field is missing or has the wrong type, a file name has a folder in it, or there are no samples.
    """
    try:
        shards = tuple(_shard(entry, base) for entry in content["shards"])
        kind, settings = content.get("kind", VIDEOS), content.get("settings") or {}
        if kind not in KINDS or not isinstance(settings, dict):
            raise ValueError(f"kind {kind!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name} is damaged: {error!r}; write it again with 'framefold shards index'") from error
    if not sum(shard.samples for shard in shards):
        raise DataError(f"{name} lists no samples")
    return Index(shards, kind, settings)


def _shard(entry: dict[str, Any], base: str) -> Shard:
    name, samples, lengths = entry["file"], entry["samples"], tuple(entry.get("lengths") or ())
    if not isinstance(name, str) or name != PurePosixPath(name).name or name.startswith((".", PIPE)):
        raise ValueError(f"{name!r} is not a plain file name")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise ValueError(f"{name} has {samples!r} samples")
    if lengths and (len(lengths) != samples or not all(type(length) is int and length > 0 for length in lengths)):
        raise ValueError(f"{name} needs {samples} positive integer lengths, got {len(lengths)} values")
    return Shard(base + name if base.startswith(NOT_LOCAL) else local_path(base + name), samples, lengths)
