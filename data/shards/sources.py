"""What a user may name as shards: a folder, tar files, globs, brace lists, ``http(s)://`` URLs and ``pipe:`` commands.

Several are joined by ``::``, as in webdataset. Commands come from the user's own call and never out of an index, so an
index may be downloaded.
"""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import urllib.error
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tqdm import tqdm
from webdataset.shardlists import expand_urls
from webdataset.tariterators import tarfile_samples

from framefold.errors import DataError
from framefold.files import write_json

from .index import FEATURES, FORMAT, INDEX, VIDEOS, Index, Shard, index_of, parse, read_folder, read_shard_json

REMOTE = ("http://", "https://")

PIPE = "pipe:"

AFAR = (*REMOTE, PIPE)

SECONDS = 30  # to wait for a server, and for a transfer that has come to a stop

RETRIES = 3

LARGEST_INDEX = 500_000_000  # bytes


def resolve_shards(shards: str, index: str | None = None) -> Index:
    """The shards that a user named, with the number of samples in each.

    Args:
        shards: a folder that ``framefold shards`` wrote; or tar files, globs, brace lists (``a-{000..127}.tar``), URLs,
            and ``pipe:`` commands that write a tar file, several of them joined by ``::``.
        index: file or URL of their index, whose entries are those of the shards in the same order; None: the
            index.json beside them, and where local files have none, they are looked through.

    Raises:
        DataError: nothing there, or no index where one is needed, or a damaged one.
    """
    if index is None and not shards.startswith(AFAR) and os.path.isdir(shards):
        return replace(read_folder(shards), source=shards)
    paths = expand_shards(shards)
    if index is not None:
        return replace(_by_place(paths, _fetch(index), index), source=shards)
    found = {base: _beside(base) for base in {_base(path) for path in paths}}
    kinds = {one.kind for one in found.values() if one is not None} or {VIDEOS}
    if len(kinds) > 1:
        raise DataError(f"{shards} holds both videos and features: train on one kind at a time")
    known = {shard.path: shard for one in found.values() if one is not None for shard in one.shards}
    described, missing = _by_name(paths, known), [path for path in paths if path not in known]
    settings = next((one.settings for one in found.values() if one is not None), {})
    kind = kinds.pop() if not missing else _kind_of(missing[0])
    return Index(tuple(described), kind, settings, shards)


def expand_shards(shards: str) -> list[str]:
    """The tar files, URLs and commands behind what a user named, in order.

    Raises:
        DataError: a pattern that matches nothing, or nothing at all.
    """
    paths: list[str] = []
    for part in shards.split("::"):
        if not part.startswith(AFAR) and os.path.isdir(part):
            paths += [shard.path for shard in read_folder(part).shards]
            continue
        try:
            named = expand_urls(part)
        except (ValueError, AssertionError) as error:
            raise DataError(f"{part!r} is no list of shards: {error}") from error
        for one in named:
            matches = sorted(glob.glob(one)) if glob.has_magic(one) and not one.startswith(AFAR) else [one]
            if not matches or not one.startswith(AFAR) and len(named) == 1 and not os.path.exists(matches[0]):
                raise DataError(f"no shards at {one}: make some with 'framefold shards synth --out FOLDER'")
            paths += matches
    if any(path.startswith(REMOTE) for path in paths) and shutil.which("curl") is None:
        raise DataError("shards behind http(s):// are read with curl, which is not installed")
    return paths


def index(shards: str, out: str | None = None) -> None:
    """Look through shards and write their index, so that training knows how many samples are in each.

    Args:
        shards: as for training: a folder with tar files, globs, brace lists, URLs, ``pipe:`` commands.
        out: file to write; by default index.json beside local shards.

    Raises:
        DataError: nothing there, shards of two kinds, or no --out where there is no folder to write it to.
        OSError: not writable.
    """
    folder = not shards.startswith(AFAR) and os.path.isdir(shards)
    paths = sorted(map(str, Path(shards).glob("*.tar"))) if folder else expand_shards(shards)
    if not paths:
        raise DataError(f"{shards} holds no tar files")
    bases = {_base(path) for path in paths}
    if out is None and (len(bases) > 1 or next(iter(bases)).startswith(AFAR)):
        raise DataError("these shards have no common folder here to write the index to: give --out index.json")
    target = Path(out) if out is not None else Path(next(iter(bases)) or ".") / INDEX
    target.parent.mkdir(parents=True, exist_ok=True)
    described = [scan_shard(path) for path in tqdm(paths, desc="index", unit="shard")]
    kinds = {_kind_of(path) for path in paths[:1]} if described else set()
    entries = [
        {"file": _file_name(place, shard.path), "samples": shard.samples, "lengths": list(shard.lengths)}
        for place, shard in enumerate(described)
    ]
    total = sum(shard.samples for shard in described)
    if not total:
        raise DataError(f"no sample in {shards} could be read: see data/README.md for what a shard holds")
    head = {"framefold_shards": FORMAT, "kind": next(iter(kinds)), "settings": {}, "samples": total}
    write_json(target, head | {"shards": entries})
    print(f"{target}: {total} samples in {len(entries)} shards")


def scan_shard(path: str) -> Shard:
    """Count the samples of a shard and read their lengths, which are in its json files; videos are not decoded.

    What cannot be read is not counted, with a warning.
    """
    errors: list[Exception] = []

    def note(error: Exception) -> bool:
        errors.append(error)
        return True

    lengths = [_length(raw) for raw in tarfile_samples([{"url": opened(path)}], handler=note)]
    if errors:
        warnings.warn(f"{path} is damaged behind its sample {len(lengths)}{reason(errors)}", stacklevel=2)
    known = all(length > 0 for length in lengths)
    return Shard(path, len(lengths), tuple(lengths) if known else ())


def _length(raw: dict[str, bytes]) -> int:
    try:
        notes = json.loads(raw["json"])
        length = notes.get("length", len(notes.get("times", ())))
        return length if type(length) is int else 0
    except (KeyError, ValueError, AttributeError, TypeError):
        return 0


def opened(path: str) -> str:
    """What webdataset is to open for a shard: URLs go through curl, with limits on how long it may wait."""
    if not path.startswith(REMOTE):
        return path
    limits = f"--connect-timeout {SECONDS} --speed-limit 1 --speed-time {SECONDS} --retry {RETRIES}"
    return f"{PIPE}curl --fail --silent --location {limits} {shlex.quote(path)}"


def reason(errors: list[Exception]) -> str:
    """What the first error says, behind a colon; "" where there is none."""
    if not errors:
        return ""
    first = errors[0]
    text = first.strerror if isinstance(first, OSError) and first.strerror else next(iter(first.args), first)
    return f": {text}"


def _kind_of(path: str) -> str:
    """Kind of a shard, from its first sample."""
    first: dict[str, Any] = next(tarfile_samples([{"url": opened(path)}], handler=lambda error: True), {})
    return FEATURES if "safetensors" in first else VIDEOS


def _by_name(paths: list[str], known: dict[str, Shard]) -> list[Shard]:
    shards = []
    for path in paths:
        if path not in known and path.startswith(AFAR):
            raise DataError(
                f"nothing tells how many samples are in {path}: run 'framefold shards index' on these shards once, and "
                f"put its index.json beside them or give it as data.index"
            )
        shards.append(known.get(path) or scan_shard(path))
    if not sum(shard.samples for shard in shards):
        raise DataError(f"no sample could be read from {paths[0]}")
    return shards


def _by_place(paths: list[str], index: Index, name: str) -> Index:
    if len(paths) != len(index.shards):
        raise DataError(f"{name} describes {len(index.shards)} shards, the call names {len(paths)}")
    shards = [Shard(path, shard.samples, shard.lengths) for path, shard in zip(paths, index.shards, strict=True)]
    return Index(tuple(shards), index.kind, index.settings)


def _base(path: str) -> str:
    """What comes before the name of a shard, "pipe:" for a command."""
    if path.startswith(PIPE):
        return PIPE
    if path.startswith(REMOTE):
        parts = urlsplit(path)
        return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/", query="", fragment=""))
    return path.removesuffix(Path(path).name)


def _file_name(place: int, path: str) -> str:
    return f"shard-{place:06d}.tar" if path.startswith(AFAR) else Path(path).name


def _beside(base: str) -> Index | None:
    """The index beside shards, None where there is none."""
    if base == PIPE:
        return None
    if not base.startswith(REMOTE):
        file = Path(base) / INDEX
        return index_of(read_shard_json(file), str(file), base) if file.exists() else None
    try:
        return index_of(parse(_download(base + INDEX), base + INDEX), base + INDEX, base)
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            return None
        raise DataError(f"{base}{INDEX} cannot be read: {error}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{base}{INDEX} cannot be read: {error}") from error


def _fetch(name: str) -> Index:
    if not name.startswith(REMOTE):
        return index_of(read_shard_json(Path(name)), name, "")
    try:
        return index_of(parse(_download(name), name), name, "")
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=SECONDS) as answer:
        return answer.read(LARGEST_INDEX)
