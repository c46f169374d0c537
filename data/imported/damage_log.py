"""The list of what could not be imported: one JSON line each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from .dialects.damage import DAMAGE, RefusedRow


class DamageLog:
    """Writes and counts damage.

    Args:
        file: receives a line for each.

    Attributes:
        counts: by kind.
    """

    def __init__(self, file: TextIO) -> None:
        self.file, self.counts = file, Counter[str]()

    def add(self, where: str, video: str, error: RefusedRow) -> None:
        """List damage.

        Args:
            where: row of the annotations.
            video: name of the video, or "" if it is not known.
            error: what was wrong.
        """
        self.counts[error.kind] += 1
        line = {"row": where, "video": video, "kind": error.kind, "detail": error.detail}
        self.file.write(json.dumps(line) + "\n")


def describe_damage(counts: Mapping[str, int]) -> list[str]:
    """Return a line for each kind, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [f"{count:>9,} {kind}: {DAMAGE[kind]}" for kind, count in ordered]


def count_kinds(files: Sequence[Path]) -> dict[str, int]:
    """Return how often each kind of damage is listed in files of :class:`DamageLog`."""
    counts = Counter[str]()
    for file in files:
        with open(file) as lines:
            counts.update(json.loads(line)["kind"] for line in lines)
    return dict(counts)
