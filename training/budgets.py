"""Budgets of a training, checked before the first step."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from framefold.adapters.base.compressor import Compressor
from framefold.errors import BudgetError
from framefold.training.frozen_host.host import Host

FRAMES = (256, 64, 16, 4)  # lengths of videos, in steps of the grid, of which one must allow a ratio


def check_budgets(compressor: Compressor, budgets: Iterable[Any]) -> list[Any]:
    """Return budgets as the compressor stores them; that of the compressor itself does not change.

    Raises:
        BudgetError: one is out of range.
    """
    before, checked = compressor.budget, []
    for budget in budgets:
        compressor.budget = budget
        checked.append(compressor.budget)
    compressor.budget = before
    return checked


def check_ratios_in_llm(compressor: Compressor, host: Host, budgets: Iterable[Any]) -> None:
    """Check that ratios can be met inside the language model, so that an impossible one does not end a run hours later.

    What is possible depends on the video as well, so only ratios that videos of no usual length allow are refused here.

    Raises:
        BudgetError: a ratio is not possible; the message names the smallest one.
    """
    if compressor.in_llm is None:
        return
    (h, w), layers = host.family.grid(host.model), len(host.family.decoder_layers(host.model))
    before = compressor.budget
    try:
        for compressor.budget in {budget for budget in budgets if isinstance(budget, float)}:
            if not any(_is_possible(compressor, frames * h * w, h * w, layers) for frames in FRAMES):
                compressor.counts_in_llm(FRAMES[0] * h * w, h * w, layers)
    finally:
        compressor.budget = before


def _is_possible(compressor: Compressor, n: int, per_frame: int, layers: int) -> bool:
    with suppress(BudgetError):
        compressor.counts_in_llm(n, per_frame, layers)
        return True
    return False


def budget_label(budget: int | float | str) -> str:
    """Return a budget as it appears in the names of metrics."""
    return budget if isinstance(budget, str) else f"{budget:g}"
