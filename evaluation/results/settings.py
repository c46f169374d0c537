"""What identifies a cell of the ablation, and which cells can stand in one table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framefold.errors import ResultsError
from framefold.messages import short

FULL = "identity"

WITH_LORA = " (LoRA)"  # behind the name of a row whose host runs with the adapter's LoRA

# Keeps the evidence of the question asked; keeps that of all events, whatever is asked.
ORACLES = ORACLE, EVENT_ORACLE = "oracle", "oracle_events"

# What the cells of one table have in common, beside their data.
COMMON = ("host_weights", "dtype", "exclude")

NAMES = ("host", "shards")  # where something lies; what it is has a digest

SYNTHETIC, SHARDS = "synthetic", "shards"  # kinds of data


@dataclass(frozen=True)
class Settings:
    """All that decides the answers of a cell; two cells with equal settings have equal answers.

    Attributes:
        compressor: name of the row.
        params: its constructor parameters; adapter: SHA-256 of its weights, None without.
        budget: retention ratio or tokens per video; seed: of methods that draw, or of an adapter's training.
        host: folder or Hub id of the host; host_weights: SHA-256 of its weights and configuration.
        dtype: that the host ran in.
        data: the held-out videos. ``kind`` is "synthetic" (with ``videos``, ``frames``, ``seed``, ``split``,
            ``difficulty``, ``style``) or "shards" (``shards`` as they were named, ``digest`` of their samples,
            ``videos``, and ``frames`` that the host is shown at most).
        exclude: question types that are left out of the headline.
        code: SHA-256 of the source that makes the videos, compresses them and asks.
    """

    compressor: str
    params: dict[str, Any]
    adapter: str | None
    budget: float | int
    seed: int
    host: str
    host_weights: str
    dtype: str
    data: dict[str, Any]
    exclude: list[str]
    code: str = ""

    @property
    def file(self) -> str:
        """Name of the cell's file: 1 token and 1.0 of the tokens differ, and so do 0.1 and 0.10000001."""
        return f"{self.compressor}-b{self.budget!r}-s{self.seed}.json"

    def plain(self) -> dict[str, Any]:
        """As JSON gives them back."""
        return json.loads(json.dumps(asdict(self)))

    def same_as(self, found: Any) -> bool:
        """Whether a file's settings are these; the same host or shards may lie elsewhere by now."""
        if not isinstance(found, dict) or not isinstance(found.get("data"), dict):
            return False
        return _without_names(found) == _without_names(self.plain())


def _without_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in settings["data"].items() if name not in NAMES}
    return {name: value for name, value in settings.items() if name not in NAMES} | {"data": data}


def check_comparable(settings: Sequence[Mapping[str, Any]], out: Path) -> None:
    """A table holds answers about the same videos by the same host, a row the same parameters, a seed one adapter.

    Args:
        settings: of cells, as dictionaries. out: their folder, for the message.

    Raises:
        ResultsError: they differ; the message names two cells and in what.
    """
    rows: dict[Any, Mapping[str, Any]] = {}
    for one in settings:
        row = rows.setdefault(one["compressor"], one)
        same = rows.setdefault((one["compressor"], one["seed"]), one)
        differences = [(settings[0], *difference) for difference in _uncommon(settings[0], one)]
        differences += [
            (row, "params", row["params"], one["params"]),
            (same, "adapter", same["adapter"], one["adapter"]),
        ]
        for other, name, theirs, ours in differences:
            if theirs != ours:
                files = " and ".join(Settings(**s).file for s in (other, one))
                raise ResultsError(
                    f"{out}: {files} differ in {name} ({short(theirs)}, {short(ours)}): "
                    "give each ablation an --out of its own, or delete the old cells"
                )


def _uncommon(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Names and both values of all that cells of one table must have in common."""
    yield from ((name, one[name], other[name]) for name in COMMON)
    names = [name for name in {**one["data"], **other["data"]} if name not in NAMES]
    yield from ((name, one["data"].get(name), other["data"].get(name)) for name in names)


REPORT = "report.md"
