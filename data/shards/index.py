"""The index of a shard folder: which tar files it holds, how many samples are in each, and how long every sample is.

The index is written last, so a folder with one is whole. What comes from an index is validated: file names are plain
names in its own folder, whatever a downloaded file says.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from framefold.errors import DataError

FORMAT = 1

INDEX, STARTED = "index.json", ".started.json"

KINDS = VIDEOS, FEATURES = ("videos", "features")


@dataclass(frozen=True)
class Shard:
    """A tar file.

    Attributes:
        path: file, or a URL or ``pipe:`` command that webdataset opens.
        samples: how many are in it.
        lengths: of each sample, in its order: frames of a video, visual tokens of features; empty where not known.
    """

    path: str
    samples: int
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Index:
    """What an index says.

    Attributes:
        shards: in order of their names. source: what the user called them.
        kind: "videos" (mp4) or "features" (what a host made of them).
        settings: that the shards were written with; for features also which host.
    """

    shards: tuple[Shard, ...]
    kind: str = VIDEOS
    settings: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def samples(self) -> int:
        """In all shards."""
        return sum(shard.samples for shard in self.shards)


def read_shard_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a shard folder.

    Raises:
        DataError: it cannot be read, or is of another format.
    """
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return parse(text, str(path))


def parse(text: str | bytes, name: str) -> dict[str, Any]:
    """The JSON object of an index, which may come from a server.

    Raises:
        DataError: no JSON object, or of another format.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("framefold_shards") != FORMAT:
        raise DataError(f"{name} is no index of format {FORMAT}; write one with 'framefold shards index'")
    return content


def read_index(folder: str | os.PathLike[str]) -> list[Shard]:
    """The shards of a folder, in order of their names.

    Raises:
        DataError: no such folder, no shards in it, writing has not finished, or a damaged index.
    """
    return list(read_folder(folder).shards)


def read_folder(folder: str | os.PathLike[str]) -> Index:
    """The whole index of a folder.

    Raises:
        DataError: as :func:`read_index`.
    """
    path = Path(folder)
    make = f"make some with 'framefold shards synth --out {path}'"
    if not path.is_dir():
        raise DataError(f"no shard folder {path}: {make}")
    if (path / STARTED).exists() and not (path / INDEX).exists():
        raise DataError(f"the shards in {path} are not finished: run the same 'framefold shards' command again")
    if not (path / INDEX).exists():
        if any(path.glob("*.tar")):
            raise DataError(f"{path} holds tar files and no {INDEX}: run 'framefold shards index --shards {path}'")
        raise DataError(f"{path} holds no {INDEX}: {make}")
    return index_of(read_shard_json(path / INDEX), str(path / INDEX), f"{path}{os.sep}")


def index_of(content: dict[str, Any], name: str, base: str) -> Index:
    """Check the fields of an index.

    Args:
        name: of the file, for messages. base: what comes before the names of its tar files.

    Raises:
        DataError: a field is missing or of the wrong type, a name that is not plain, or no samples.
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
    if not isinstance(name, str) or name != PurePosixPath(name).name or name.startswith(".") or ":" in name:
        raise ValueError(f"{name!r} is no plain file name")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise ValueError(f"{name} has {samples!r} samples")
    if lengths and (len(lengths) != samples or not all(type(length) is int and length > 0 for length in lengths)):
        raise ValueError(f"{name} has {len(lengths)} lengths of {samples} samples, or odd ones")
    return Shard(base + name, samples, lengths)
