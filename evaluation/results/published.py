"""Accuracies of methods as papers print them, from ``docs/measured/published.json``.

A table has the host, the source, the scores of the host with all tokens, and one row per method and retention ratio.
Scores are percentages by benchmark; ``printed`` is the average over all of them that the paper prints. Only rows of one
table can be compared, since papers differ in frames, prompts and versions of the benchmarks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefold.errors import ResultsError

BENCHMARKS = ("videomme", "mlvu", "longvideobench", "egoschema", "mvbench")

FIELDS = {*BENCHMARKS, "printed"}

DIGITS = 6  # of means, so that equal sums of decimal fractions are equal


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper.

    Attributes:
        name: whose measurements these are.
        host: the model.
        source: where the numbers were read.
        unpruned: benchmark -> score with all tokens.
        rows: ratio -> registered name of the method -> benchmark -> score.
    """

    name: str
    host: str
    source: str
    unpruned: dict[str, float]
    rows: dict[float, dict[str, dict[str, float]]]

    def relative(self, ratio: float, methods: Sequence[str], benchmarks: Sequence[str]) -> list[float]:
        """Return the mean scores of methods at a ratio, as shares of the score with all tokens.

        Args:
            ratio: a ratio of the table.
            methods: methods of the table at this ratio.
            benchmarks: benchmarks to average over; those that a method or the host lacks are left out for all.

        Raises:
            ResultsError: no benchmark is left.
        """
        scores = [self.unpruned, *(self.rows[ratio][name] for name in methods)]
        used = [name for name in benchmarks if all(name in one for one in scores)]
        if not used:
            raise ResultsError(f"{self.name} ({self.host}) has none of {', '.join(benchmarks)} for all of its methods")
        full, *means = (sum(one[name] for name in used) / len(used) for one in scores)
        return [round(mean / full, DIGITS) for mean in means]


def read_published(file: Path) -> list[PublishedTable]:
    """Return the tables of a file.

    Raises:
        ResultsError: there is no such file, or it is damaged.
    """
    try:
        tables = [_table(one) for one in json.loads(file.read_text())["tables"]]
    except FileNotFoundError as error:
        raise ResultsError(f"there is no {file}: run this in a checkout of framefold, or name a file") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{file} has no published tables ({type(error).__name__}: {error})") from error
    return tables


def _table(content: dict[str, Any]) -> PublishedTable:
    rows: dict[float, dict[str, dict[str, float]]] = {}
    for row in content["rows"]:
        methods = rows.setdefault(float(row["ratio"]), {})
        if row["method"] in methods:
            raise ValueError(f"{content['name']} has two rows of {row['method']} at {row['ratio']}")
        methods[row["method"]] = _scores({key: row[key] for key in row if key not in ("ratio", "method")})
    return PublishedTable(content["name"], content["host"], content["source"], _scores(content["unpruned"]), rows)


def _scores(scores: dict[str, Any]) -> dict[str, float]:
    for name, score in scores.items():
        if name not in FIELDS or isinstance(score, bool) or not 0 < score <= 100:
            raise ValueError(f"{name}: {score!r} is no percentage of {', '.join(BENCHMARKS)}")
    return {name: float(score) for name, score in scores.items()}
