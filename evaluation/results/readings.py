"""Values and remarks of measures that are computed from more than one stored number."""

from __future__ import annotations

from collections.abc import Callable

from framefold.evaluation.metrics.significance import stars
from framefold.evaluation.metrics.statistics import Interval

from .formats import p_value
from .measure import Readings


def baseline_difference(readings: Readings) -> Interval | None:
    """Return the difference from the baseline; None for the baseline itself."""
    return readings.comparison.difference if readings.comparison else None


def corrected_p(readings: Readings) -> float | None:
    """Return p of the sign-flip test with Holm's correction."""
    return readings.comparison.flip_holm if readings.comparison else None


def significance_marks(readings: Readings) -> str:
    """Return the stars of the sign-flip test."""
    return stars(readings.comparison.flip_holm) if readings.comparison else ""


def mcnemar_remark(readings: Readings) -> str:
    """Return p of McNemar's test in parentheses."""
    return f"(McNemar {p_value(readings.comparison.mcnemar_holm)})" if readings.comparison else ""


def relative_time(readings: Readings) -> float | None:
    """Return the time in percent of the prefill of all tokens."""
    speedup = readings.stored("speedup")
    return 100 / speedup if speedup else None


def in_all_layers(inside: str, entering: str) -> Callable[[Readings], float | None]:
    """Return a reading of a number that only methods have that act inside the language model.

    Args:
        inside: its key.
        entering: key of the number that holds for all layers otherwise.
    """

    def read(readings: Readings) -> float | None:
        found = readings.stored(inside)
        return readings.stored(entering) if found is None else found

    return read


def total_ms(readings: Readings) -> float | None:
    """Return the milliseconds of compressor and prefill."""
    compressor, prefill = readings.stored("compressor_ms"), readings.stored("prefill_ms")
    return None if compressor is None or prefill is None else compressor + prefill
