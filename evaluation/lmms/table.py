"""Tables of the results of ``framefold eval``: for the terminal, and in Markdown for a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framefold.evaluation.inspection.answer_table import ALL_TOKENS
from framefold.evaluation.report.markdown import format_table
from framefold.evaluation.results.formats import number
from framefold.evaluation.results.settings import FULL

from .results import TaskMetric, read_eval

HEAD = ("task", "metric", "value", "stderr", "n", "visual tokens", "prefill", "compressor", "peak memory")


def text_table(metrics: Sequence[TaskMetric]) -> str:
    """Format the results of one compressor: one line per metric, with the costs of the answers."""
    lines = [HEAD, *((metric.task, metric.metric, *_figures(metric)) for metric in metrics)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = [[f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)] for line in lines]
    title = f"{_name(metrics[0])}, host {metrics[0].host}"
    return "\n".join([title, *("  ".join(line).rstrip() for line in cells)])


def markdown_table(folders: Sequence[str | Path]) -> str:
    """Compare several evaluations, task by task, the best first; "" for no folder.

    Args:
        folders: output folders of ``framefold eval``, one for each compressor and budget.

    Raises:
        EvalError: a folder has no results, or damaged ones.
    """
    metrics = [metric for folder in folders for metric in read_eval(folder)]
    hosts = {metric.host for metric in metrics}
    lines = []
    for task, name in dict.fromkeys((metric.task, metric.metric) for metric in metrics):
        same = [metric for metric in metrics if (metric.task, metric.metric) == (task, name)]
        for metric in sorted(same, key=lambda metric: metric.value, reverse=same[0].better != "lower"):
            title = _name(metric) if len(hosts) == 1 else f"{_name(metric)} in {metric.host}"
            lines.append([task, name, title, *_figures(metric)])
    return format_table([*HEAD[:2], "by", *HEAD[2:]], lines) if lines else ""


def _name(metric: TaskMetric) -> str:
    return ALL_TOKENS if metric.compressor == FULL else f"{metric.compressor}, budget {metric.budget}"


def _figures(metric: TaskMetric) -> tuple[str, ...]:
    costs = metric.efficiency
    visual = f"{costs['visual_before']:.0f} -> {costs['visual_after']:.0f}"
    mean = costs.get("visual_mean", costs["visual_after"])
    if mean != costs["visual_after"]:
        visual += f", mean over layers {mean:.0f}"
    times = (f"{costs[name]:.1f} ms" for name in ("prefill_ms", "compressor_ms"))
    stderr = number(metric.stderr, 4) or "-"
    return f"{metric.value:.4f}", stderr, str(metric.n), visual, *times, f"{costs['memory_mib']:.1f} MiB"
