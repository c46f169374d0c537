"""Pieces of Markdown that the report is made of."""

from __future__ import annotations

from collections.abc import Sequence

from framefold.evaluation.metrics.statistics import Interval


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([line(*head), line(*["---"] * len(head)), *(line(*row) for row in rows)])


def line(*values: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(values)} |"


def details(title: str, *blocks: str) -> str:
    """What is folded away until somebody wants to see it."""
    return "\n\n".join([f"<details><summary>{title}</summary>", *blocks, "</details>"])


def percent(interval: Interval | None, sign: bool = False) -> str:
    """A value in percent with its interval; "" for None."""
    if interval is None:
        return ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{'+' if sign else ''}.1f} [{low:.1f}, {high:.1f}]"


def whole_percent(interval: Interval | None) -> str:
    """The same in whole percents, for narrow columns."""
    if interval is None:
        return ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def number(value: float | None, digits: int = 1) -> str:
    """A number; "" for None."""
    return "" if value is None else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    """A p with two significant digits; very small ones by a power of ten."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def scaled(value: float | None, units: Sequence[str], step: float = 1000.0) -> str:
    """A large number with the unit that suits it, such as 1.3 G; "" for None."""
    if value is None:
        return ""
    place = 0
    while value >= step and place < len(units) - 1:
        value, place = value / step, place + 1
    return f"{value:.3g} {units[place]}".rstrip()
