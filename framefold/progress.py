"""The progress bar of every command except ``fit``, which shows Lightning's."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(
    items: Iterable[Any] | None = None,
    what: str = "",
    *,
    total: int | None = None,
    done: int = 0,
    unit: str = "it",
    leave: bool = True,
) -> Any:
    """Show progress, rate and remaining time on stderr.

    The remaining time is estimated from the mean rate of all steps so far, because steps may take very unequal times.
    If stderr is not a terminal, at most one line per minute is written.

    Args:
        items: iterable to wrap; None to call ``update()`` by hand.
        what: description shown before the bar.
        total: number of steps, if ``items`` has no length.
        done: number of steps that were completed earlier; they are excluded from the rate.
        unit: name of a step.
        leave: keep the bar on screen after the last step.

    Returns:
        A ``tqdm`` bar: an iterable and a context manager with ``update`` and ``set_description``.
    """
    every = 0.1 if sys.stderr.isatty() else 60.0
    return tqdm(
        items,
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        leave=leave,
        smoothing=0.0,
        mininterval=every,
        dynamic_ncols=True,
    )
