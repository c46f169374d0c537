"""Tables of the results of ``framefold eval``: for the terminal, and in Markdown for a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from framefold.errors import EvalError
from framefold.evaluation.inspection.answer_table import ALL_TOKENS
from framefold.evaluation.report.markdown import format_table
from framefold.evaluation.results.formats import number
from framefold.evaluation.results.settings import FULL

from .published_scores import (
    BENCHMARKS,
    PublishedScore,
    UnprunedCheck,
    host_key,
    read_published_scores,
    unpruned_checks,
    warnings_of,
)
from .results import TaskMetric, read_eval

HEAD = ("task", "metric", "value", "stderr", "n", "visual tokens", "prefill", "compressor", "peak memory")


UNPRUNED = ("task", "all tokens here", "published", "difference", "frames here", "published with", "source")


def text_table(
    metrics: Sequence[TaskMetric], full: Sequence[TaskMetric] = (), scores: Sequence[PublishedScore] = ()
) -> str:
    """Format the results of one compressor: one line per metric, with the costs of the answers.

    Args:
        metrics: metrics of the compressor.
        full: metrics of all tokens.
        scores: published scores, which are shown next to those of all tokens.
    """
    checks = unpruned_checks([*metrics, *full], scores)
    title = f"{_name(metrics[0])}, host {metrics[0].host}"
    rows = [HEAD, *((metric.task, metric.metric, *_figures(metric)) for metric in metrics)]
    blocks = [*warnings_of(checks), "\n".join([title, *_aligned(rows)])]
    if checks:
        blocks.append("\n".join(_aligned([UNPRUNED, *map(_check_row, checks)])))
    return "\n\n".join([*blocks, *_unpublished(metrics, checks)])


def compare_evaluations(results: list[str], published: str | None = None) -> None:
    """Print a Markdown table that compares evaluations of public benchmarks, task by task, the best first.

    Scores with all tokens (compressor identity) are checked against published ones; a difference of more than a point
    is reported on top.

    Args:
        results: output folders of ``framefold eval``, one for each compressor and budget.
        published: JSON file of published scores of hosts with all tokens; by default the packaged one.

    Raises:
        EvalError: there is no folder, one has no results, or damaged ones.
        ResultsError: the file of published scores is missing or damaged.
    """
    if not results:
        raise EvalError("there are no results to compare: give --results and output folders of 'framefold eval'")
    print(markdown_table(results, read_published_scores(published)))


def markdown_table(folders: Sequence[str | Path], scores: Sequence[PublishedScore] = ()) -> str:
    """Compare several evaluations, task by task, the best first; "" for no folder.

    Args:
        folders: output folders of ``framefold eval``, one for each compressor and budget.
        scores: published scores of hosts with all tokens.

    Raises:
        EvalError: a folder has no results, or damaged ones.
    """
    metrics = [metric for folder in folders for metric in read_eval(folder)]
    checks = unpruned_checks(metrics, scores)
    blocks = [*(f"**{text}.**" for text in warnings_of(checks)), _comparison(metrics)]
    if checks:
        blocks.append(format_table(UNPRUNED, [_check_row(check) for check in checks]))
    return "\n\n".join([*filter(None, blocks), *_unpublished(metrics, checks)])


def _comparison(metrics: Sequence[TaskMetric]) -> str:
    hosts = {metric.host for metric in metrics}
    lines = []
    for task, name in dict.fromkeys((metric.task, metric.metric) for metric in metrics):
        same = [metric for metric in metrics if (metric.task, metric.metric) == (task, name)]
        for metric in sorted(same, key=lambda metric: metric.value, reverse=same[0].better != "lower"):
            title = _name(metric) if len(hosts) == 1 else f"{_name(metric)} in {metric.host}"
            lines.append([task, name, title, *_figures(metric)])
    return format_table([*HEAD[:2], "by", *HEAD[2:]], lines) if lines else ""


def _check_row(check: UnprunedCheck) -> tuple[str, ...]:
    published = check.published
    ours = "not measured" if check.ours is None else f"{check.ours:.1f}"
    difference = "-" if check.difference is None else f"{check.difference:+.1f}"
    frames = "unknown frames" if published.frames is None else f"{published.frames} frames"
    printed = f"{frames} ({published.settings})"
    return published.task, ours, f"{published.score:.1f}", difference, str(check.frames), printed, published.source


def _unpublished(metrics: Sequence[TaskMetric], checks: Sequence[UnprunedCheck]) -> list[str]:
    """Name the benchmarks for which no score of the host is known."""
    known = {(one.published.task, host_key(one.published.host)) for one in checks}
    missing = [(one.host, one.task) for one in metrics if one.task in BENCHMARKS]
    missing = [pair for pair in dict.fromkeys(missing) if (pair[1], host_key(pair[0])) not in known]
    if not missing:
        return []
    names = ", ".join(f"{host} on {task}" for host, task in missing)
    return [f"No published score with all tokens is known for {names}: --published FILE adds some"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in cells]


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
