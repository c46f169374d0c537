"""Resolving what a user names as shards, counting their samples and reading their files.

Commands are taken from the user's call only, never from an index, so it is safe to download an index.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from webdataset.handlers import reraise_exception
from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener

from framefold.errors import DataError
from framefold.files import write_json
from framefold.progress import progress_bar

from .index import (
    FEATURES,
    FORMAT,
    INDEX,
    VIDEOS,
    Index,
    Shard,
    index_from_json,
    parse_shard_json,
    read_index,
    read_shard_json,
)
from .location import NOT_LOCAL, PIPE, REMOTE, describe_folder, expand_source, local_path, split_sources
from .members import MemberNotes

Handler = Callable[[Exception], bool]  # takes an error of a shard, and returns whether to continue

TIMEOUT_SECONDS = 30  # for a server to respond, and for a stalled transfer to continue

RETRIES = 3

MAX_INDEX_BYTES = 500_000_000


def resolve_shards(shards: str, index: str | None = None) -> Index:
    """Find the shards that a user named, with the number of samples in each.

    Args:
        shards: a folder that ``framefold shards`` wrote; or tar files, globs, brace lists (``a-{000..127}.tar``), URLs
            and ``pipe:`` commands that write a tar file, several of them joined by ``::``.
        index: file or URL of their index, with one entry per shard in the same order. None reads the index.json next to
            the shards; local files without one are scanned.

    Raises:
        DataError: there are no shards, a required index is missing, or an index is damaged.
    """
    if index is None and os.path.isdir(shards):
        return replace(read_index(shards), source=shards)
    paths = expand_shards(shards)
    if index is not None:
        return replace(_match_order(paths, _load_index(index), index), source=shards)
    indexes = [found for base in {_base(path) for path in paths} if (found := _index_next_to(base)) is not None]
    kinds = {found.kind for found in indexes} or {VIDEOS}
    if len(kinds) > 1:
        raise DataError(f"{shards} contains both videos and features: train on one kind at a time")
    known = {shard.path: shard for found in indexes for shard in found.shards}
    described, missing = _match_names(paths, known), [path for path in paths if path not in known]
    settings = next((found.settings for found in indexes), {})
    kind = kinds.pop() if not missing else _kind_of(missing[0])
    return Index(tuple(described), kind, settings, shards)


def expand_shards(shards: str) -> list[str]:
    """Return the tar files, URLs and commands that a user named, in order.

    Raises:
        DataError: a pattern or name matches nothing.
    """
    paths: list[str] = []
    for source in split_sources(shards):
        paths += [shard.path for shard in read_index(source).shards] if os.path.isdir(source) else expand_source(source)
    if any(path.startswith(REMOTE) for path in paths) and shutil.which("curl") is None:
        raise DataError("http(s):// shards are read with curl, which is not installed")
    return paths


def index_shards(shards: str, out: str | None = None) -> None:
    """Scan shards and write their index, which training needs to know the number of samples in each.

    Args:
        shards: as for training: a folder with tar files, globs, brace lists, URLs or ``pipe:`` commands.
        out: file to write; by default index.json next to local shards.

    Raises:
        DataError: there are no readable samples, or --out is missing and the shards have no common local folder.
        OSError: the index cannot be written.
    """
    paths = _tar_files(shards) if os.path.isdir(shards) else expand_shards(shards)
    bases = {_base(path) for path in paths}
    if out is None and (len(bases) > 1 or next(iter(bases)).startswith(NOT_LOCAL)):
        raise DataError("these shards have no common local folder for the index: give --out index.json")
    target = Path(out) if out is not None else Path(next(iter(bases)) or ".") / INDEX
    target.parent.mkdir(parents=True, exist_ok=True)
    notes = MemberNotes()
    described = [_scan_shard(path, notes) for path in progress_bar(paths, "index", unit="shard")]
    _warn(shards, notes)
    entries = [
        {"file": _file_name(number, shard.path), "samples": shard.samples, "lengths": list(shard.lengths)}
        for number, shard in enumerate(described)
    ]
    total = sum(shard.samples for shard in described)
    if not total:
        raise DataError(f"no sample in {shards} could be read: data/README.md describes the format of shards")
    head = {"framefold_shards": FORMAT, "kind": _kind_of(paths[0]), "settings": {}, "samples": total}
    write_json(target, head | {"shards": entries})
    print(f"{target}: {total} samples in {len(entries)} shards")


def _tar_files(folder: str) -> list[str]:
    """Return the tar files in a folder; hidden ones, which macOS writes, are left out."""
    paths = [local_path(str(path)) for path in sorted(Path(folder).glob("*.tar")) if not path.name.startswith(".")]
    if not paths:
        raise DataError(f"{folder} has no tar files{f': {found}' if (found := describe_folder(folder)) else ''}")
    return paths


def _scan_shard(path: str, notes: MemberNotes) -> Shard:
    """Count the samples of a shard and read their lengths from its json files, without decoding videos.

    Samples that cannot be read are not counted; a warning names the shard.
    """
    errors: list[Exception] = []

    def record(error: Exception) -> bool:
        errors.append(error)
        return True

    lengths: list[int] = []
    for raw in group_by_keys(notes.watch(_read_files(path, record)), handler=record):
        lengths.append(_length(raw))
        notes.add(raw)
    errors = [error for error in errors if "duplicate file name" not in str(error)]  # which the notes count
    if errors:
        warnings.warn(f"{path} is damaged after sample {len(lengths)}{error_reason(errors)}", stacklevel=2)
    return Shard(path, len(lengths), tuple(lengths) if all(lengths) else ())


def _warn(shards: str, notes: MemberNotes) -> None:
    for text in notes.messages():
        warnings.warn(f"{shards}: {text}", stacklevel=3)


def _length(raw: dict[str, bytes]) -> int:
    """Return the length that the json file of a sample gives, or 0 if it is unknown."""
    try:
        metadata = json.loads(raw["json"])
        length = metadata["length"] if "safetensors" in raw else len(metadata["times"])
        length = length if type(length) is int and length > 0 else 0
    except (KeyError, ValueError, AttributeError, TypeError, RecursionError):
        length = 0
    return length if length or "safetensors" in raw else 1  # a video without times is damaged, and never in a batch


def read_samples(path: str, handler: Handler = reraise_exception) -> Iterator[dict[str, Any]]:
    """Yield the samples of a shard: their files by extension, and ``__key__``.

    Args:
        path: file, URL or command, as :func:`expand_shards` returns it.
        handler: called with each error; what it returns decides whether reading continues.
    """
    return group_by_keys(_read_files(path, handler), handler=handler)


def _read_files(path: str, handler: Handler) -> Iterator[dict[str, Any]]:
    remote = path.startswith(NOT_LOCAL)
    opened = url_opener([{"url": webdataset_url(path)}], handler=handler) if remote else _open_local(path, handler)
    return tar_file_expander(opened, handler=handler)


def _open_local(path: str, handler: Handler) -> Iterator[dict[str, Any]]:
    """Open a local file, which webdataset would take for a URL if its name contains a colon."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        handler(error)
        return
    with file:
        yield {"url": path, "stream": file}


def webdataset_url(path: str) -> str:
    """Return what webdataset must open for a shard: URLs are read through curl with time limits."""
    if not path.startswith(REMOTE):
        return path
    timeout = TIMEOUT_SECONDS
    limits = f"--connect-timeout {timeout} --speed-limit 1 --speed-time {timeout} --retry {RETRIES}"
    return f"{PIPE}curl --fail --silent --location {limits} {shlex.quote(path)}"


def error_reason(errors: list[Exception]) -> str:
    """Return the text of the first error after a colon, or "" if there is none."""
    if not errors:
        return ""
    first = errors[0]
    text = first.strerror if isinstance(first, OSError) and first.strerror else next(iter(first.args), first)
    return f": {text}"


def _kind_of(path: str) -> str:
    """Return the kind of a shard, from its first sample."""
    first: dict[str, Any] = next(read_samples(path, lambda error: True), {})
    return FEATURES if "safetensors" in first else VIDEOS


def _match_names(paths: list[str], known: dict[str, Shard]) -> list[Shard]:
    """Describe shards from the indexes next to them; local ones that no index lists are scanned."""
    shards, notes = [], MemberNotes()
    for path in paths:
        if path not in known and path.startswith(NOT_LOCAL):
            raise DataError(
                f"the number of samples in {path} is unknown: run 'framefold shards index' on these shards once, then "
                f"store the index.json next to them or pass it as data.index"
            )
        shards.append(known.get(path) or _scan_shard(path, notes))
    _warn(paths[0] if len(paths) == 1 else f"{paths[0]} and others", notes)
    if not sum(shard.samples for shard in shards):
        raise DataError(f"no sample could be read from {paths[0]}")
    return shards


def _match_order(paths: list[str], index: Index, name: str) -> Index:
    """Describe shards from an index that lists them in the same order."""
    if len(paths) != len(index.shards):
        raise DataError(f"{name} describes {len(index.shards)} shards, but the call names {len(paths)}")
    shards = [Shard(path, shard.samples, shard.lengths) for path, shard in zip(paths, index.shards, strict=True)]
    return Index(tuple(shards), index.kind, index.settings)


def _base(path: str) -> str:
    """Return the folder or URL before the file name of a shard, or "pipe:" for a command."""
    if path.startswith(PIPE):
        return PIPE
    if path.startswith(REMOTE):
        parts = urlsplit(path)
        return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/", query="", fragment=""))
    return path.removesuffix(Path(path).name)


def _file_name(number: int, path: str) -> str:
    return f"shard-{number:06d}.tar" if path.startswith(NOT_LOCAL) else Path(path).name


def _index_next_to(base: str) -> Index | None:
    """Return the index in the folder of shards, or None if there is none."""
    if base == PIPE:
        return None
    if not base.startswith(REMOTE):
        file = Path(base) / INDEX
        return index_from_json(read_shard_json(file), str(file), base) if file.exists() else None
    try:
        return index_from_json(parse_shard_json(_download(base + INDEX), base + INDEX), base + INDEX, base)
    except urllib.error.HTTPError as error:
        if error.code in (403, 404, 410):
            return None
        raise DataError(f"{base}{INDEX} cannot be read: {error}") from error
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{base}{INDEX} cannot be read: {error}") from error


def _load_index(name: str) -> Index:
    if not name.startswith(REMOTE):
        return index_from_json(read_shard_json(Path(name)), name, "")
    try:
        return index_from_json(parse_shard_json(_download(name), name), name, "")
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}") from error


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        return response.read(MAX_INDEX_BYTES)
