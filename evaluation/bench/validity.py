"""Whether a host and task order methods as published tables of 7B models do: ``framefold bench validity``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from framefold.adapters.pretrained.card import budget_text
from framefold.errors import ConfigError
from framefold.evaluation.metrics.rank_agreement import SMALLEST, RankedList, mutual_agreement, rank_agreement, spearman
from framefold.evaluation.report.markdown import format_table
from framefold.evaluation.results.published import BENCHMARKS, PublishedTable, read_published
from framefold.files import write_json

from .accuracies import Measured, read_measured


def bench_validity(
    results: list[str],
    published: str = "docs/measured/published.json",
    budgets: list[float] = [0.25, 0.15, 0.1],  # noqa: B006 (read only)
    benchmarks: list[str] = ["videomme", "mlvu", "longvideobench", "egoschema"],  # noqa: B006
    out: str | None = None,
) -> dict[str, Any]:
    """Compare the order of methods in an ablation with their orders in published tables.

    Each table of a paper, at each budget, gives Spearman's rank correlation between the accuracies that it prints and
    those measured here; their mean is weighted by the numbers of methods less one. Its 95 % bootstrap interval is over
    methods, and over videos if the results contain the answers.

    Args:
        results: folders of 'framefold ablate' about the same videos, or one file of committed accuracies such as
            docs/measured/accuracies_hard.json, which has no answers.
        published: file of the published tables.
        budgets: retention ratios.
        benchmarks: benchmarks whose scores are averaged: videomme, mlvu, longvideobench, egoschema, mvbench.
        out: output folder for validity.json, and validity.md for the card of the host.

    Returns:
        ``pooled`` (value, low, high); ``resampled``, what the interval is over; ``tables``, the correlation of each,
        ``rho``, with its paper, host, budget and methods; ``published``, how well the tables agree with each other, and
        the number of their ``pairs``; ``left_out``, the published methods that were not compared. A correlation that is
        not defined, since all methods are equal, is None.

    Raises:
        ConfigError: there is no benchmark, one is unknown, or no table has enough of the methods.
        ResultsError: results are missing, damaged, or not comparable.
    """
    if not benchmarks or not set(benchmarks) <= set(BENCHMARKS):
        raise ConfigError(f"benchmarks must be some of {', '.join(BENCHMARKS)}, got {benchmarks}")
    tables, measured = read_published(Path(published)), read_measured([Path(name) for name in results])
    places = [(ratio, table) for ratio in budgets for table in tables if ratio in table.rows]
    rows = [one for ratio, table in places if (one := _compare(table, ratio, measured, benchmarks))]
    if not rows:
        raise ConfigError(
            f"no published table has {SMALLEST} methods measured here at these budgets: run 'framefold ablate'"
            f" with --budgets {' '.join(map(str, budgets))} --compressors {' '.join(sorted(_names(places)))}"
        )
    found = _summarize(rows, measured) | {"left_out": _left_out(places, rows)}
    text = validity_table(found)
    print(text)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "validity.json", {"results": results, "benchmarks": benchmarks} | found)
        (Path(out) / "validity.md").write_text(text + "\n")
    return found


@dataclass(frozen=True)
class Row:
    """A published table at a ratio, with the methods that were measured here."""

    table: PublishedTable
    ratio: float
    ranked: RankedList


def _compare(table: PublishedTable, ratio: float, measured: Measured, benchmarks: Sequence[str]) -> Row | None:
    """Return a table at a ratio with the methods that were measured here; None if they are too few."""
    label = budget_text(ratio)
    methods = tuple(name for name in table.rows[ratio] if (name, label) in measured.accuracies)
    if len(methods) < SMALLEST:
        return None
    here = np.array([measured.accuracies[name, label] for name in methods])
    known = all((name, label) in measured.resampled for name in methods)
    resampled = np.stack([measured.resampled[name, label] for name in methods], axis=1) if known else None
    return Row(table, ratio, RankedList(methods, np.array(table.relative(ratio, methods, benchmarks)), here, resampled))


def _names(places: Sequence[tuple[float, PublishedTable]]) -> set[str]:
    return {name for ratio, table in places for name in table.rows[ratio]}


def _left_out(places: Sequence[tuple[float, PublishedTable]], rows: Sequence[Row]) -> list[str]:
    return sorted(_names(places) - {name for row in rows for name in row.ranked.methods})


def _summarize(rows: Sequence[Row], measured: Measured) -> dict[str, Any]:
    pooled = rank_agreement([row.ranked for row in rows])
    ratios = dict.fromkeys(row.ratio for row in rows)
    value, pairs = mutual_agreement([[row.ranked for row in rows if row.ratio == ratio] for ratio in ratios])
    each = [
        {"paper": row.table.name, "host": row.table.host, "source": row.table.source, "budget": budget_text(row.ratio)}
        | {"rho": _known(float(spearman(row.ranked.published, row.ranked.here))), "methods": _best_first(row.ranked)}
        for row in rows
    ]
    resampled = ["methods", "videos"] if measured.resampled else ["methods"]
    limits = [_known(number) for number in (pooled.value, pooled.low, pooled.high)]
    return {"pooled": limits, "resampled": resampled, "published": _known(value), "pairs": pairs, "tables": each}


def _best_first(ranked: RankedList) -> list[dict[str, Any]]:
    """Return the methods, the one with the highest published score first, with both numbers."""
    ranks = rankdata(-ranked.here, "min").tolist()
    columns = zip(ranked.methods, ranked.published.tolist(), ranked.here.tolist(), ranks, strict=True)
    rows = [dict(zip(("method", "published", "here", "rank"), one, strict=True)) for one in columns]
    return sorted(rows, key=lambda row: -row["published"])


def _known(number: float) -> float | None:
    """Return a number; None for a correlation that is not defined, since JSON has no NaN."""
    return None if math.isnan(number) else number


def validity_table(found: dict[str, Any]) -> str:
    """Return what :func:`bench_validity` found as Markdown."""
    head = ["published table", "host", "budget", "Spearman's rho", "methods, best published first (rank here)"]
    body = [
        [row["paper"], row["host"], row["budget"], _text(row["rho"])]
        + [", ".join(f"{one['method']} ({one['rank']})" for one in row["methods"])]
        for row in found["tables"]
    ]
    value, low, high = (_text(number) for number in found["pooled"])
    resampled = " and ".join(found["resampled"])
    lines = [
        f"Spearman's rho, pooled: {value} [{low}, {high}] (95 % bootstrap interval over {resampled}).",
        f"Published tables with each other: {_text(found['published'])} ({found['pairs']} pairs).",
    ]
    if found["left_out"]:
        lines.append(f"Published, but not compared: {', '.join(found['left_out'])}.")
    return "\n\n".join([format_table(head, body), *lines])


def _text(rho: float | None) -> str:
    return "undefined" if rho is None else f"{rho:.2f}"
