"""The plan of an import: the samples of every shard as lines of a file, so that memory does not grow with their number.

The plan depends on annotations and settings only, not on the video files, and is written once; workers and resumed runs
read their part of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from framefold.data.shards.held_out import key_hash
from framefold.errors import DataError
from framefold.files import fsync_path, write_json
from framefold.progress import progress_bar

from .damage_log import DamageLog
from .dialects.damage import RefusedRow
from .dialects.dialect import Conversation, Dialect
from .dialects.registry import detect_dialect, find_dialect
from .rows import read_rows
from .settings import ImportSettings

PLAN, SAMPLES, DAMAGE = "plan.json", "samples.jsonl", "damaged-plan.jsonl"

MOST_QUESTIONS = 16  # of a sample; further conversations about a video become another sample

MB = 1e6


@dataclass
class ImportPlan:
    """What has been planned, apart from the samples themselves.

    Attributes:
        digest: of annotations and settings.
        shards: byte at which the samples of each shard start, and their number.
        rows: number of rows of all files.
        chosen: number of rows that were read, after sub-sampling.
        damaged: counts by kind.
    """

    digest: str
    shards: list[tuple[int, int]] = field(default_factory=list)
    rows: int = 0
    chosen: int = 0
    damaged: dict[str, int] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Number of samples of all shards."""
        return sum(count for _, count in self.shards)


def make_plan(files: Sequence[Path], folder: Path, settings: ImportSettings, digest: str) -> ImportPlan:
    """Return the plan in a folder; read the annotations and write it if there is none.

    Args:
        files: annotations.
        folder: of the plan.
        settings: of the import.
        digest: of annotations and settings; another plan is replaced.

    Raises:
        DataError: a file cannot be read, or fits no known format.
    """
    if (plan := read_plan(folder)) is not None and plan.digest == digest:
        return plan
    (folder / PLAN).unlink(missing_ok=True)
    plan = ImportPlan(digest)
    with open(folder / SAMPLES, "wb") as samples, open(folder / DAMAGE, "w") as damage:
        _Planner(plan, settings, samples, DamageLog(damage)).run(files)
    for name in (SAMPLES, DAMAGE):
        fsync_path(folder / name)
    write_json(folder / PLAN, vars(plan))  # last: it tells that the others are complete
    return plan


def read_plan(folder: Path) -> ImportPlan | None:
    """Return the plan in a folder, or None if there is no complete one."""
    try:
        content = json.loads((folder / PLAN).read_text())
    except FileNotFoundError:
        return None
    return ImportPlan(**{**content, "shards": [tuple(shard) for shard in content["shards"]]})


def read_samples_at(folder: Path, offset: int, count: int) -> Iterator[dict[str, Any]]:
    """Yield planned samples: ``number``, ``video``, ``rows`` and ``conversations``."""
    with open(folder / SAMPLES, "rb") as file:
        file.seek(offset)
        for _ in range(count):
            yield json.loads(file.readline())


class _Planner:
    """Writes the samples of a plan.

    Args:
        plan: receives shards and counts.
        settings: of the import.
        samples: file for the samples.
        damage: receives what cannot be imported.
    """

    def __init__(self, plan: ImportPlan, settings: ImportSettings, samples: BinaryIO, damage: DamageLog) -> None:
        self.plan, self.settings, self.file, self.damage = plan, settings, samples, damage
        self.pending: dict[str, Any] | None = None
        self.number = 0
        self.missing = {one for column in settings.columns.values() for one in _listed(column)}

    def run(self, files: Sequence[Path]) -> None:
        """Plan all rows of all files."""
        total = sum(file.stat().st_size for file in files)
        with progress_bar(what="annotations", total=math.ceil(total / MB), unit="MB") as bar:
            for number, file in enumerate(files):
                dialect = find_dialect(self.settings.format)
                for row in read_rows(file, self._chooser(number), lambda count: bar.update(count / MB)):
                    if isinstance(row.fields, RefusedRow):
                        self.damage.add(row.where, "", row.fields)
                        continue
                    fields = self._renamed(row.fields)
                    dialect = dialect or detect_dialect(fields, row.where)
                    self._add(row.where, fields, dialect)
        if self.plan.chosen and self.missing:
            raise DataError(
                f"no row has the field {min(self.missing)!r}, which --columns names: correct it or leave it out"
            )
        self._flush()
        self.plan.damaged = dict(self.damage.counts)

    def _chooser(self, file: int) -> Callable[[int], bool]:
        """Return a function that counts rows and chooses some by a hash of their numbers."""
        limit, seed = self.settings.sample * 2**64, self.settings.seed

        def chosen(number: int) -> bool:
            self.plan.rows += 1
            taken = limit >= 2**64 or key_hash(f"{seed} {file} {number}") < limit
            self.plan.chosen += taken
            return taken

        return chosen

    def _renamed(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return the fields under the names that dialects expect; a mapped field is never taken from its own name."""
        self.missing -= fields.keys()
        mapped = {name: value for name, value in fields.items() if name not in self.settings.columns}
        for name, column in self.settings.columns.items():
            if isinstance(column, list):
                mapped[name] = [fields[one] for one in column if fields.get(one) not in (None, "")]
            elif column in fields:
                mapped[name] = fields[column]
        return mapped

    def _add(self, where: str, fields: dict[str, Any], dialect: Dialect) -> None:
        try:
            imported = dialect.convert(fields)
        except RefusedRow as error:
            self.damage.add(where, "", error)
            return
        for refused in imported.refused:
            self.damage.add(where, imported.video, refused)
        for conversation in imported.conversations:
            self._append(where, imported.video, conversation)

    def _append(self, where: str, video: str, conversation: Conversation) -> None:
        """Add a conversation to the sample of the row before if it is about the same video."""
        turns = [[turn.text, turn.answer, turn.kind, turn.choices, turn.seconds] for turn in conversation]
        pending = self.pending
        if pending is not None:
            questions = sum(len(turns) for turns in pending["conversations"])
            if pending["video"] != video or questions + len(turns) > MOST_QUESTIONS:
                self._flush()
        if self.pending is None:
            self.pending = {"number": self.number, "video": video, "rows": [], "conversations": []}
        if self.pending["rows"][-1:] != [where]:
            self.pending["rows"].append(where)
        self.pending["conversations"].append(turns)

    def _flush(self) -> None:
        if self.pending is None:
            return
        if self.number % self.settings.shard_size == 0:
            self.plan.shards.append((self.file.tell(), 0))
        self.file.write(json.dumps(self.pending, separators=(",", ":")).encode() + b"\n")
        offset, count = self.plan.shards[-1]
        self.plan.shards[-1] = offset, count + 1
        self.number += 1
        self.pending = None


def _listed(column: str | list[str]) -> list[str]:
    return [column] if isinstance(column, str) else column
