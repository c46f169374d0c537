"""A measure of a comparison: how it is called, read, written as text, and where it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from framefold.evaluation.metrics.significance import Comparison
from framefold.evaluation.metrics.statistics import Interval

# Groups of the page's menu, in this order.
GROUPS = ANSWERS, TYPES, PLACES, POSITIONS, COSTS = (
    "answers",
    "accuracy on one type",
    "position of the evidence",
    "position in long answers",
    "costs",
)

Value = float | Interval


@dataclass(frozen=True)
class Readings:
    """What is known of a method at a budget, from which measures are read.

    Attributes:
        stored: function that returns a number of the result files by its key: the mean over seeds, None if unknown.
        accuracy: accuracy, mean over question types.
        by_type: accuracy of each question type.
        comparison: comparison with the baseline; None for the baseline itself and where there is none.
        is_oracle: whether the method is an oracle, whose own work means nothing.
        view: function that returns the mean of some of the answers by its key, see
            :class:`~framefold.evaluation.views.answer_views.AnswerViews`; None if it is unknown.
    """

    stored: Callable[[str], float | None]
    accuracy: Interval | None = None
    by_type: Mapping[str, Interval] = field(default_factory=dict)
    comparison: Comparison | None = None
    is_oracle: bool = False
    view: Callable[[str], Interval | None] = lambda key: None


@dataclass(frozen=True)
class Measure:
    """Declaration of a measure.

    Attributes:
        key: name in the page's data and, unless ``stored`` or ``read`` is given, in the result files.
        title: name in tables, plots and menus; may contain {baseline}.
        description: what it is, with its unit, in one sentence without a full stop; may contain {baseline}.
        better: which values are better; None if neither.
        show: returns the text of a value.
        brief: returns the text of a value in narrow columns; None for ``show``.
        unit: unit that follows the title; "" if the text of a value contains it, or if there is none.
        note: remark next to the page's menu; may contain {tests}, the number of tests that p is corrected for.
        remark: returns a text to append to that of the value, or "".
        stored: key in the result files, if it is not ``key``.
        read: returns the value; None for the stored number.
        reference: key of the stored number with all tokens; the cost table adds the share of it.
        full_value: value with all tokens, if the definition of the measure fixes it.
        of_compressor: whether it depends on the compressor's own work; not shown for oracles.
        required: whether a result file without it is damaged. False for a measure that older results lack.
        group: group in the page's menu; None if the page does not offer it.
        hint: whether the page shows it in the hints of marks and cells.
        axis: whether the page offers it as an axis of a plot.
        compares: whether it compares with the baseline.
        needs: key in the result files without which no method has it, so that tables and the page leave it out.
        table: table of ``report.md`` that shows it; None if there is none.
        column: place among the columns of that table.
        plot: whether ``report.md`` shows a plot of the accuracy against it.
        phrase: format of its value in the summary, such as "{:.1f} ms"; "" if the summary does not mention it.
    """

    key: str
    title: str
    description: str
    better: Literal["higher", "lower"] | None
    show: Callable[[Any], str]
    brief: Callable[[Any], str] | None = None
    unit: str = ""
    note: str = ""
    remark: Callable[[Readings], str] | None = None
    stored: str = ""
    read: Callable[[Readings], Value | None] | None = None
    reference: str = ""
    full_value: float | None = None
    of_compressor: bool = False
    required: bool = False
    group: str | None = COSTS
    hint: bool = False
    axis: bool = False
    compares: bool = False
    needs: str = ""
    table: Literal["answers", "evidence", "cost"] | None = None
    column: int = 99
    plot: bool = False
    phrase: str = ""

    @property
    def label(self) -> str:
        """Title with the unit, such as "prefill, ms"."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def definition(self) -> str:
        """Description with a lower-case initial."""
        return self.description[0].lower() + self.description[1:]

    def value(self, readings: Readings) -> Value | None:
        """Return the value of a method at a budget; None if it is unknown or means nothing."""
        if self.of_compressor and readings.is_oracle:
            return None
        return readings.stored(self.stored or self.key) if self.read is None else self.read(readings)

    def text(self, readings: Readings) -> str:
        """Return the value as text with its remark; "" if there is no value."""
        value = self.value(readings)
        if value is None:
            return ""
        return f"{self.show(value)} {self.remark(readings) if self.remark else ''}".rstrip()

    def brief_text(self, readings: Readings) -> str:
        """Return the value as text for a narrow column; "" if there is no value."""
        value = self.value(readings)
        return "" if value is None else (self.brief or self.show)(value)
