"""Results of ``framefold eval`` as tables: on the terminal, and in Markdown for a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framefold.evaluation.report.markdown import number, table

from .results import EvalRow, read_eval

FULL = "identity"

HEAD = ("task", "metric", "value", "stderr", "n", "visual tokens", "prefill", "compressor", "peak memory")


def text_table(rows: Sequence[EvalRow]) -> str:
    """What ``framefold eval`` prints of one compressor: a line for each metric, with what the answers took."""
    lines = [HEAD, *((row.task, row.metric, *_figures(row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join([f"{_name(rows[0])}, host {rows[0].host}", *("  ".join(line).rstrip() for line in cells)])


def markdown_table(folders: Sequence[str | Path]) -> str:
    """Several evaluations side by side, task by task and the best first; "" for no folder.

    Args:
        folders: of ``framefold eval --out``, one for each compressor and budget.

    Raises:
        EvalError: no results in one of them, or damaged ones.
    """
    rows = [row for folder in folders for row in read_eval(folder)]
    hosts = {row.host for row in rows}
    lines = []
    for task, metric in dict.fromkeys((row.task, row.metric) for row in rows):
        same = [row for row in rows if (row.task, row.metric) == (task, metric)]
        for row in sorted(same, key=lambda row: row.value, reverse=same[0].better != "lower"):
            name = _name(row) if len(hosts) == 1 else f"{_name(row)} in {row.host}"
            lines.append([task, metric, name, *_figures(row)])
    return table([*HEAD[:2], "by", *HEAD[2:]], lines) if lines else ""


def _name(row: EvalRow) -> str:
    return "all tokens" if row.compressor == FULL else f"{row.compressor}, budget {row.budget}"


def _figures(row: EvalRow) -> tuple[str, ...]:
    took = row.efficiency
    visual = f"{took['visual_before']:.0f} -> {took['visual_after']:.0f}"
    times = (f"{took[name]:.1f} ms" for name in ("prefill_ms", "compressor_ms"))
    return f"{row.value:.4f}", number(row.stderr, 4) or "-", str(row.n), visual, *times, f"{took['memory_mib']:.1f} MiB"
