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
    """Show how much is done, the rate and the time left on stderr.

    The time left follows the mean rate of all steps so far, since steps may take very unequal times. Without a terminal
    at most one line a minute is written.

    Args:
        items: what is iterated; None to call ``update()`` by hand.
        what: description in front of the bar.
        total: number of steps, where ``items`` has no length.
        done: number of steps that were done earlier; they do not count for the rate.
        unit: name of a step.
        leave: keep the bar on the screen after its end.

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
