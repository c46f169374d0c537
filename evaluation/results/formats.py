"""Text of numbers, as tables, plots and pages show them."""

from __future__ import annotations

from collections.abc import Sequence

from framefold.evaluation.metrics.statistics import Interval


def percent(interval: Interval | None, sign: bool = False) -> str:
    """Return a value in percent with its interval; "" for None."""
    if interval is None:
        return ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:{'+' if sign else ''}.1f} [{low:.1f}, {high:.1f}]"


def whole_percent(interval: Interval | None) -> str:
    """Return a value in whole percents with its interval, for narrow columns; "" for None."""
    if interval is None:
        return ""
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def nats(interval: Interval | None, sign: bool = False, digits: int = 3) -> str:
    """Return a loss, or a difference of losses, with its interval; "" for None."""
    if interval is None:
        return ""
    low, high = (f"{one:.{digits}f}" for one in (interval.low, interval.high))
    return f"{interval.value:{'+' if sign else ''}.{digits}f} [{low}, {high}]"


def number(value: float | None, digits: int = 1) -> str:
    """Return a number with a fixed number of decimals; "" for None."""
    return "" if value is None else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    """Return a p value with two significant digits; very small ones as a power of ten."""
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"


def share_percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 in percent."""
    return f"{100 * share:.{digits}f}"


def factor(value: float) -> str:
    """Return a factor, such as 1.50x."""
    return f"{value:.2f}x"


def flops(value: float) -> str:
    """Return a number of operations with a decimal prefix, such as 1.3 G."""
    return _scaled(value, ("", "K", "M", "G", "T", "P"), 1000)


def byte_count(value: float) -> str:
    """Return a number of bytes in the unit that suits it, such as 1.3 GiB."""
    return _scaled(value, ("B", "KiB", "MiB", "GiB", "TiB"), 1024)


def _scaled(value: float, units: Sequence[str], step: float) -> str:
    place = 0
    while value >= step and place < len(units) - 1:
        value, place = value / step, place + 1
    return f"{value:.3g} {units[place]}".rstrip()
