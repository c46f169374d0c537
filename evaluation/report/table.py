"""Cells arranged as rows (compressors) by columns (budgets), with what can be said of each and how sure it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

import numpy as np

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.registry import compressor_class, list_compressors
from framefold.errors import ResultsError, UnknownCompressorError
from framefold.evaluation.metrics.significance import Comparison, discordant, holm, mcnemar, parts_of, sign_flip
from framefold.evaluation.metrics.statistics import (
    Answers,
    Interval,
    macro_interval,
    paired_difference,
    same_questions,
    type_intervals,
)
from framefold.evaluation.results.cells import answers_of, mean_of, stored_number
from framefold.evaluation.results.measure import Measure, Readings
from framefold.evaluation.results.settings import FULL, ORACLES, WITH_LORA
from framefold.messages import nearest

Cell = dict[str, Any]


class Table:
    """Cells arranged as rows (compressors) by columns (budgets).

    Args:
        cells: that can stand in one table. baseline: row that the others are compared with; None: the usual one.

    Raises:
        ResultsError: there is no row of that name.
    """

    def __init__(self, cells: list[Cell], baseline: str | None = None) -> None:
        self.cells = cells
        self.by_row: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
        tokens: dict[str, float] = {}
        for cell in cells:
            self.by_row[cell["compressor"]][label(cell["budget"])].append(cell)
            if cell["compressor"] != FULL:
                tokens[label(cell["budget"])] = cell["tokens"]
        self.by_row = {name: dict(columns) for name, columns in self.by_row.items()}
        self._answers: dict[tuple[str, str], Answers | None] = {}
        self._intervals: dict[tuple[str, str], dict[str | None, Interval]] = {}
        self.budgets = sorted(tokens, key=lambda budget: tokens[budget], reverse=True)
        self.middle = self.budgets[max(0, len(self.budgets) - 2)] if self.budgets else ""
        self.rows = sorted((name for name in self.by_row if name != FULL), key=self._rank, reverse=True)
        self.sample = cells[0]
        if baseline is not None and baseline not in self.rows:
            raise ResultsError(f"no row {baseline!r} to compare with{nearest(baseline, self.rows)}")
        self.baseline = baseline or next((name for name in baselines() if name in self.rows), None)

    @cached_property
    def full_cells(self) -> list[Cell]:
        """Those of all tokens."""
        return [cell for group in self.by_row.get(FULL, {}).values() for cell in group]

    @cached_property
    def full_answers(self) -> Answers | None:
        """Answers with all tokens."""
        return answers_of(self.full_cells) if self.full_cells else None

    @property
    def full(self) -> float | None:
        """Accuracy with all tokens."""
        return self.full_answers.macro if self.full_answers is not None else None

    @cached_property
    def types(self) -> tuple[str, ...]:
        """Question types of the headline."""
        return answers_of(self.cells[:1]).types

    def _rank(self, name: str) -> tuple[bool, float]:
        smallest = self.answers(name, self.budgets[-1])
        return name in ORACLES, -1.0 if smallest is None else smallest.macro

    def cells_of(self, name: str, budget: str) -> list[Cell]:
        """The cells of a row at a budget, one a seed."""
        return self.by_row.get(name, {}).get(budget, [])

    def answers(self, name: str, budget: str) -> Answers | None:
        """Answers of a row at a budget, None where it was not run."""
        if (name, budget) not in self._answers:
            cells = self.cells_of(name, budget)
            self._answers[name, budget] = answers_of(cells) if cells else None
        return self._answers[name, budget]

    def interval(self, name: str, budget: str, kind: str | None = None) -> Interval | None:
        """Accuracy of a row at a budget, of the headline or of one type; None where it was not run."""
        answers, key = self.answers(name, budget), (name, budget)
        if answers is None:
            return None
        if key not in self._intervals:
            found: dict[str | None, Interval] = {None: macro_interval(answers)}
            found.update(type_intervals(answers).items())
            self._intervals[key] = found
        return self._intervals[key][kind]

    def shares(self, name: str, budget: str, kind: str | None = None) -> np.ndarray:
        """(Q,) share of the seeds of a row that answer each question right; of the headline, or of one type."""
        cells = self.cells_of(name, budget)
        types = {kind} if kind is not None else set(self.types)
        counted = [one in types for one in cells[0]["answers"]["type"]]
        return np.mean([np.array(cell["answers"]["correct"], float)[counted] for cell in cells], axis=0)

    def tokens(self, budget: str) -> list[int]:
        """Kept tokens per video in a column; one number where budgets are exact and videos equally long."""
        return sorted({round(cell["tokens"]) for name in self.rows for cell in self.cells_of(name, budget)})

    def stored(self, name: str, budget: str, key: str) -> float | None:
        """Return a number of the result files of a row at a budget, the mean over its seeds; None if none has it."""
        return mean_of(stored_number(cell, key) for cell in self.cells_of(name, budget))

    def readings(self, name: str, budget: str, comparison: Comparison | None = None) -> Readings:
        """Return what is known of a row at a budget where it was run.

        Args:
            comparison: with the baseline.
        """
        kinds = {kind: self.interval(name, budget, kind) for kind in self.types}
        return Readings(
            stored=lambda key: self.stored(name, budget, key),
            accuracy=self.interval(name, budget),
            by_type={kind: interval for kind, interval in kinds.items() if interval is not None},
            comparison=comparison,
            is_oracle=name in ORACLES,
        )

    def full_readings(self) -> Readings | None:
        """Return accuracies and costs of all tokens, which keep all evidence; None if they were not run."""
        if self.full_answers is None:
            return None
        return Readings(
            stored=lambda key: mean_of(cell["cost"].get(key) for cell in self.full_cells),
            accuracy=macro_interval(self.full_answers),
            by_type=type_intervals(self.full_answers),
        )

    def cost(self, measure: Measure, name: str, budget: str) -> float | None:
        """Return the value of a measure that is read from stored numbers; None if there is none."""
        value = measure.value(Readings(lambda key: self.stored(name, budget, key), is_oracle=name in ORACLES))
        assert not isinstance(value, Interval)
        return value

    def curves(self, x: Callable[[str, str], float | None], kind: str | None = None) -> dict[str, list[Any]]:
        """Row -> [(x, accuracy, low, high)] in ascending x, for plots; of the headline, or of one type."""
        curves = {}
        for name in self.rows:
            points = []
            for budget in self.by_row[name]:
                one, place = self.interval(name, budget, kind), x(name, budget)
                if one is not None and place is not None:
                    points.append((place, one.value, one.low, one.high))
            curves[name] = sorted(points)
        return curves

    def difference(self, a: str, b: str, budget: str) -> Interval | None:
        """Paired difference of two rows at a budget; None where they were not asked the same."""
        one, other = self.answers(a, budget), self.answers(b, budget)
        if one is None or other is None or not same_questions(one, other):
            return None
        return paired_difference(one, other)

    def comparisons(self, kinds: list[str | None], budgets: list[str]) -> dict[tuple[str, str, str | None], Comparison]:
        """Every row against the baseline: one family of tests, corrected together.

        Args:
            kinds: question types, None for the mean over them. budgets: columns.

        Returns:
            By row, budget and kind.
        """
        keys, parts, found = [], [], []
        for budget in budgets:
            other = self.answers(self.baseline, budget) if self.baseline else None
            for name in self.rows:
                one = self.answers(name, budget)
                if other is None or one is None or name == self.baseline or not same_questions(one, other):
                    continue
                assert self.baseline is not None
                columns = parts_of(one, other)
                for kind in kinds:
                    keys.append((name, budget, kind))
                    parts.append(columns[:, -1 if kind is None else one.types.index(kind)])
                    halves = (one, other) if kind is None else (one.only(kind), other.only(kind))
                    counts = discordant(*(self.shares(row, budget, kind) for row in (name, self.baseline)))
                    found.append((paired_difference(*halves), *counts, mcnemar(*counts)))
        flips = sign_flip(np.column_stack(parts)).tolist() if parts else []
        corrected = zip(holm([one[3] for one in found]), flips, holm(flips), strict=True)
        return {
            key: Comparison(key[0], key[1], *one, *more) for key, one, more in zip(keys, found, corrected, strict=True)
        }

    def best(self, budget: str, wanted: Callable[[type[Compressor]], bool] = lambda cls: True) -> str:
        """The most accurate row of a column among compressors that are wanted, "" if there is none."""
        some = [name for name in self.rows if (cls := class_of(name)) and wanted(cls)]
        scores = {name: answers.macro for name in some if (answers := self.answers(name, budget))}
        return max(scores, key=lambda name: scores[name], default="")


def baselines() -> list[str]:
    """Return the names of the compressors that serve as baselines, the strongest first."""
    ranks = {name: vars(compressor_class(name)).get("baseline_rank") for name in list_compressors()}
    ranked = [name for name, rank in ranks.items() if rank is not None]
    return sorted(ranked, key=lambda name: ranks[name], reverse=True)


@cache
def class_of(row: str) -> type[Compressor] | None:
    """The compressor of a row; None for oracles, and for what this installation does not know."""
    try:
        return compressor_class(row.removesuffix(WITH_LORA))
    except UnknownCompressorError:
        return None


def label(budget: float | int) -> str:
    """Name of a column; 1 token and 1.0 of the tokens are two."""
    return f"{100 * budget:.10g} %" if isinstance(budget, float) else f"{budget} tokens"
