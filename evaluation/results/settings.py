"""Settings that identify a result of the ablation, and the check that results can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framefold.errors import ResultsError
from framefold.messages import short

REPORT = "report.md"

FULL = "identity"  # method that keeps all tokens

LORA_SUFFIX = " (LoRA)"  # of the name of a method whose host runs with the adapter's LoRA

EQUAL_FLOPS_SUFFIX = " (equal FLOPs)"  # of the name of a method that got the budget's FLOPs instead of its tokens

TRAINED_AT = "trained at"  # beginning of the label of adapters that were trained at other budgets than others of theirs

LABEL = re.compile(r"\w[\w .,=+-]*")  # in parentheses behind a compressor's name, for a row with other parameters

# The first keeps the evidence of the question asked, the second that of all events.
ORACLES = ORACLE, EVENT_ORACLE = "oracle", "oracle_events"

# Controls without a budget: one frame of the video, and none.
CONTROLS = ONE_FRAME, BLIND = "one frame", "blind"

REFERENCES = (FULL, *CONTROLS)  # methods with a single result, which tables show in every column

RESIZE = "resize"  # method that shows smaller frames instead of compressing them

SHARED = ("host_weights", "dtype", "exclude")  # settings that the results of a folder share, besides those of the data

LOCATIONS = ("host", "shards")  # settings that say where a thing is; digests say what it is

SYNTHETIC, SHARDS = "synthetic", "shards"  # kinds of data


def compressor_of(method: str) -> str:
    """Return the registered name in the name of a method, which may end with labels in parentheses."""
    return method.partition(" (")[0]


@dataclass(frozen=True)
class Settings:
    """Everything that determines the answers of a result; results with equal settings have equal answers.

    Attributes:
        compressor: name of the method.
        params: constructor parameters of the compressor.
        adapter: SHA-256 of its weights; None if it has none.
        budget: retention ratio or number of tokens per video.
        seed: seed of a method that is random, or of the training of its adapter.
        host: folder or Hub id of the host.
        host_weights: SHA-256 of its weights and configuration.
        dtype: dtype in which it ran.
        data: held-out videos. ``kind`` is "synthetic" (with ``videos``, ``frames``, ``seed``, ``split``,
            ``difficulty``, ``style``) or "shards" (with ``shards`` as they were named, ``digest`` of their samples,
            ``videos``, and ``frames``, the largest number that the host is shown).
        exclude: question types that are not part of the headline.
        code: SHA-256 of the source that generates, compresses and asks.
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
        """Name of the result file; it distinguishes 1 token from 1.0 of the tokens, and 0.1 from 0.10000001."""
        return f"{self.compressor}-b{self.budget!r}-s{self.seed}.json"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON can represent."""
        return json.loads(json.dumps(asdict(self)))

    def matches(self, stored: Any) -> bool:
        """Whether the settings of a file are equal to these, apart from the locations of host and shards."""
        if not isinstance(stored, dict) or not isinstance(stored.get("data"), dict):
            return False
        return _without_locations(stored) == _without_locations(self.to_dict())


def _without_locations(settings: Mapping[str, Any]) -> dict[str, Any]:
    data = {name: value for name, value in settings["data"].items() if name not in LOCATIONS}
    return {name: value for name, value in settings.items() if name not in LOCATIONS} | {"data": data}


def check_comparable(settings: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Check that results can stand in one table.

    All must be about the same videos and the same host, those of one method must have the same parameters, and those of
    one method and seed the same adapter.

    Args:
        settings: settings of the results, as dictionaries.
        out: folder of the results, for the message.

    Raises:
        ResultsError: two results differ; the message names both and the difference.
    """
    firsts: dict[Any, Mapping[str, Any]] = {}
    for one in settings:
        method = firsts.setdefault(one["compressor"], one)
        trained = firsts.setdefault((one["compressor"], one["seed"]), one)
        differences = [(settings[0], *difference) for difference in _shared(settings[0], one)]
        differences += [
            (method, "params", method["params"], one["params"]),
            (trained, "adapter", trained["adapter"], one["adapter"]),
        ]
        for other, name, theirs, ours in differences:
            if theirs != ours:
                files = " and ".join(Settings(**s).file for s in (other, one))
                raise ResultsError(
                    f"{out}: {files} differ in {name} ({short(theirs)}, {short(ours)}): "
                    "give each ablation its own --out, or delete the old results"
                )


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the names and both values of all settings that the results of a folder must share."""
    yield from ((name, one[name], other[name]) for name in SHARED)
    names = [name for name in {**one["data"], **other["data"]} if name not in LOCATIONS]
    yield from ((name, one["data"].get(name), other["data"].get(name)) for name in names)
