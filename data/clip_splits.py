"""Which clips are for training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from .clips import Clip

SHARES = {"train": 0.8, "val": 0.9, "test": 1.0}  # ends of their parts of [0, 1)


def splits(clips: Iterable[Clip], sources: Mapping[str, str]) -> dict[str, str]:
    """The split of every clip whose file can be read, by id.

    Clips of the same file, or of copies of it, have the same: a hash of the first of their ids decides. Nothing else
    does, so other settings never move a clip.
    """
    first: dict[str, str] = {}
    known = [clip for clip in clips if clip.file in sources]
    for clip in known:
        source = sources[clip.file]
        first[source] = min(clip.id, first.get(source, clip.id))
    names = {source: _split(key) for source, key in first.items()}
    return {clip.id: names[sources[clip.file]] for clip in known}


def _split(key: str) -> str:
    word = hashlib.sha256(f"framefold split {key}".encode()).digest()[:8]
    return next(name for name, end in SHARES.items() if int.from_bytes(word) < end * 2**64)
