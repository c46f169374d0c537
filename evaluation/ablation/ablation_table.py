"""Result of ``framefold.ablate``: a table by method and budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.card import budget_text
from framefold.errors import ConfigError, MissingExtraError
from framefold.evaluation.metrics.significance import Comparison
from framefold.evaluation.metrics.statistics import Interval, macro_interval
from framefold.evaluation.report.markdown_tables import main_tables
from framefold.evaluation.report.references import ALL_TOKENS, reference_readings, text_only_answers
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.measure import Readings
from framefold.evaluation.results.measures import ACCURACY, MEASURES
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, FULL, REFERENCES
from framefold.messages import nearest

CONTROL = "control"  # kind of the rows of one frame and of no video


@dataclass(frozen=True)
class AblationRow:
    """A method at a budget; values are means over seeds.

    Attributes:
        method: name of the method, or "all tokens".
        kind: "trained", "training-free", "untrained", "oracle", "control", or "all tokens".
        budget: share of the visual tokens that are kept (float), or their number (int).
        equal: what it has in common with other methods at the budget: "tokens", as the mean over the layers of the
            language model, or "flops" of the prefill.
        tokens: mean number of kept tokens per video.
        accuracy: accuracy with its 95 % interval, 0 to 1, mean over question types.
        difference: accuracy minus that of the baseline on the same questions, with the interval of the difference; None
            for the baseline itself and for all tokens.
        p: p of that difference by the sign-flip test, with Holm's correction over all rows; None without a difference.
        costs: other measures by their key in the result files, such as ``total_ms``, ``speedup`` and ``peak_bytes``;
            None for those that are unknown or mean nothing for the method.
    """

    method: str
    kind: str
    budget: float | int
    equal: str
    tokens: float
    accuracy: Interval
    difference: Interval | None
    p: float | None
    costs: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as a flat dictionary; intervals become ``accuracy``, ``accuracy_low``, ``accuracy_high``."""
        row: dict[str, Any] = {name: getattr(self, name) for name in ("method", "kind", "budget", "equal", "tokens")}
        for name, interval in (("accuracy", self.accuracy), ("difference", self.difference)):
            ends = (None, None, None) if interval is None else (interval.value, interval.low, interval.high)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        return row | {"p": self.p} | self.costs


class AblationTable:
    """Results of an ablation by method and budget: the result of :func:`framefold.ablate`.

    ``print(table)`` shows accuracies and paired differences as ``framefold ablate`` does; notebooks display them as
    tables. Iteration yields the rows.

    Args:
        results: results of the output folder, including those of earlier calls.
        report: path of ``report.md``.
        page: path of ``report.html``.
        is_writer: whether this process wrote both; otherwise another one that shared the work did.
    """

    def __init__(self, results: ResultTable, report: Path, page: Path, is_writer: bool = True) -> None:
        self.results, self.report, self.page, self.is_writer = results, report, page, is_writer

    @property
    def baseline(self) -> str | None:
        """Method that the others are compared with; None if no baseline was run."""
        return self.results.baseline

    @cached_property
    def rows(self) -> tuple[AblationRow, ...]:
        """One row per method and budget, in the order of the printed table, then those without a budget."""
        table = self.results
        tests = table.comparisons([None], table.budgets)
        rows = [
            self._row(
                method, table.kind(method), budget, table.readings(method, budget, tests.get(key)), tests.get(key)
            )
            for method in table.methods
            for budget in table.budgets
            if table.results_of(method, budget)
            for key in [(method, budget, None)]
        ]
        for method in REFERENCES:
            if readings := reference_readings(table, method):
                kind = ALL_TOKENS if method == FULL else CONTROL
                rows.append(self._row(method, kind, next(iter(table.by_method[method])), readings))
        return tuple(rows)

    @cached_property
    def text_only(self) -> Interval:
        """Accuracy of a reader of the questions alone, which sees no video, with its 95 % interval."""
        return macro_interval(text_only_answers(self.results))

    def row(self, method: str, budget: Budget | None = None) -> AblationRow:
        """Return the row of a method at a budget; all tokens have one budget, which may be left out.

        Raises:
            ConfigError: there is no such row.
        """
        found = [one for one in self.rows if one.method == method and (budget is None or _same(one.budget, budget))]
        if len(found) != 1:
            self._refuse(method, budget)
        return found[0]

    def difference(self, method: str, other: str, budget: Budget) -> Interval | None:
        """Return the accuracy of a method minus that of another at the same budget, paired by question, 0 to 1.

        Returns:
            The difference with its 95 % interval; None if the two were not asked the same questions.

        Raises:
            ConfigError: one of the two was not run at this budget.
        """
        rows = [self.row(one, budget) for one in (method, other)]
        return self.results.difference(method, other, budget_text(rows[0].budget))

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the rows as flat dictionaries, for a data frame or a file, see :meth:`AblationRow.to_dict`."""
        return [row.to_dict() for row in self.rows]

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a line per row and the columns of :meth:`AblationRow.to_dict`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError(
                "pandas is not installed, which to_pandas() needs: pip install pandas (to_dicts() does without)"
            ) from error
        return pandas.DataFrame(self.to_dicts())

    def __iter__(self) -> Iterator[AblationRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return "\n\n".join([main_tables(self.results), f"report: {self.report}\npage: {self.page}"])

    def __repr__(self) -> str:
        return f"<AblationTable of {len(self)} rows in {self.report.parent}>"

    def _repr_markdown_(self) -> str:
        return "\n\n".join([main_tables(self.results), f"report: `{self.report}`, page: `{self.page}`"])

    def _row(
        self, method: str, kind: str, budget: str, readings: Readings, comparison: Comparison | None = None
    ) -> AblationRow:
        accuracy, tokens = readings.accuracy, self.results.stored(method, budget, "tokens")
        assert accuracy is not None and tokens is not None
        costs = {one.key: one.value(readings) for one in MEASURES if one is not ACCURACY and not one.compares}
        return AblationRow(
            ALL_TOKENS if method == FULL else method,
            kind,
            self.results.by_method[method][budget][0]["budget"],
            "flops" if method.endswith(EQUAL_FLOPS_SUFFIX) else "tokens",
            tokens,
            accuracy,
            comparison.difference if comparison else None,
            comparison.flip_holm if comparison else None,
            {key: value for key, value in costs.items() if not isinstance(value, Interval)},
        )

    def _refuse(self, method: str, budget: Budget | None) -> None:
        budgets = [one.budget for one in self.rows if one.method == method]
        if not budgets:
            raise ConfigError(f"no method {method!r} in the table{nearest(method, {one.method for one in self.rows})}")
        asked = "without a budget" if budget is None else f"at budget {budget}"
        raise ConfigError(f"no single row of {method} {asked}: its budgets are {', '.join(map(str, budgets))}")


def _same(one: Budget, other: Budget) -> bool:
    """Whether two budgets are the same: 1.0 keeps all tokens, 1 keeps one."""
    return type(one) is type(other) and one == other
