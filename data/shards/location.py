"""What a user names as shards: paths, globs, brace lists, URLs or ``pipe:`` commands, joined by ``::``.

A file or folder that exists is taken by its name, even if the name looks like one of the others. A local path never
begins like a URL or a command: :func:`local_path` writes ``./`` before it, so that nothing opens it as such later.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from pathlib import Path

from framefold.errors import DataError

REMOTE = ("http://", "https://")

PIPE = "pipe:"

NOT_LOCAL = (*REMOTE, PIPE)

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def local_path(path: str) -> str:
    """Return a path that does not begin like a URL or a command."""
    return f".{os.sep}{path}" if path.startswith(NOT_LOCAL) else path


def split_sources(shards: str) -> list[str]:
    """Split at ``::``, except within the names of files and folders that exist."""
    parts = shards.split("::")
    sources: list[str] = []
    while parts:
        joined = ("::".join(parts[:count]) for count in range(len(parts), 1, -1))
        source = next((name for name in joined if "::" not in _existing_folder(name)[1]), parts[0])
        sources.append(source)
        del parts[: source.count("::") + 1]
    return sources


def expand_source(source: str) -> list[str]:
    """Return the files, URLs and commands that one source names; those of a brace list need not exist.

    Raises:
        DataError: it is no valid pattern, or matches nothing.
    """
    from webdataset.shardlists import expand_urls  # here, because reading an index needs no webdataset

    if os.path.exists(source):
        return [local_path(source)]
    folder, pattern = _existing_folder(source)
    remote = source.startswith(NOT_LOCAL) and not folder
    try:
        names = [folder + name for name in expand_urls(pattern)]
    except (ValueError, AssertionError) as error:
        raise DataError(f"{source!r} does not name shards: {error}") from error
    if remote:
        return names
    paths = [path for name in names for path in _match(name)]
    if len(names) == 1 and not os.path.exists(paths[0]):
        raise DataError(_nothing_at(names[0]))
    return [local_path(path) for path in paths]


def is_remote(shards: str) -> bool:
    """Return whether a part of what a user named is a URL or a command, which may contain keys, and no local path."""
    return any(
        (source.startswith(NOT_LOCAL) or "://" in source) and not _existing_folder(source)[0]
        for source in split_sources(shards)
    )


def describe_folder(folder: str | os.PathLike[str]) -> str:
    """Return what a folder without shards holds, and what to do; "" if it is empty."""
    entries = [entry for entry in Path(folder).iterdir() if not entry.name.startswith(".")]
    kinds = Counter(_kind(entry) for entry in entries)
    if not kinds:
        return ""
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    compressed = next((kind for kind in kinds if kind in COMPRESSED), None)
    remedy = "shards are tar files (*.tar) directly in the folder"
    if compressed == ".tar.gz":
        pattern = os.path.join(folder, "*.tar.gz")
        remedy = f"unpack them with 'gunzip', or index them as they are: framefold shards index --shards '{pattern}'"
    elif compressed is not None:
        remedy = f"decompress the {compressed} files to .tar"
    return f"it holds {found}: {remedy}"


def _kind(entry: Path) -> str:
    if entry.is_dir():
        return "folder" if len(list(entry.glob("*.tar"))) == 0 else "folder of .tar"
    name = entry.name.lower()
    return next((suffix for suffix in COMPRESSED if name.endswith(suffix)), entry.suffix) or "file without a suffix"


def _match(name: str) -> list[str]:
    """Return the files that a name or a glob matches; a file that exists wins over a glob."""
    folder, pattern = _existing_folder(name)
    if os.path.lexists(name) or not glob.has_magic(pattern):
        return [name]
    paths = sorted(glob.glob(glob.escape(folder) + pattern))
    if not paths:
        raise DataError(_nothing_at(name))
    return paths


def _existing_folder(name: str) -> tuple[str, str]:
    """Split a name after the longest leading folder that exists; all of it if the name itself exists."""
    if os.path.lexists(name):
        return name, ""
    end = 0
    for separator in re.finditer("/+", name):
        if not os.path.isdir(name[: separator.end()]):
            break
        end = separator.end()
    return name[:end], name[end:]


def _nothing_at(name: str) -> str:
    folder = os.path.dirname(name) or "."
    found = describe_folder(folder) if name and os.path.isdir(folder) else ""
    if found:
        return f"no shards at {name}: in {folder} {found}"
    return f"no shards at {name}: create some with 'framefold shards synth --out FOLDER'"
