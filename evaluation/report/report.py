"""Results files -> Markdown and plots. Nothing here is typed in: every number comes from the cells."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from framefold.evaluation.results.cells import read_cells
from framefold.evaluation.results.measures import plotted_measures
from framefold.evaluation.results.settings import REPORT
from framefold.files import replace_file

from .markdown_tables import accuracy, by_type, compared, cost, differences, evidence, setting
from .page import write_page
from .plots import plot_accuracy, plot_cost, plot_types
from .summary import losses, summary
from .table import Table


def report(results: str, baseline: str | None = None) -> Path:
    """Write ``report.md``, its pictures and ``report.html`` from a folder of results, and print the headline tables.

    Args:
        results: the ``--out`` folder of ``framefold ablate``.
        baseline: row that the others are compared with; by default the strongest baseline that is there.

    Returns:
        Path of the report.

    Raises:
        ResultsError: no results, damaged ones, or such as cannot stand in one table; no row of that name.
    """
    out = Path(results)
    table = Table(read_cells(out), baseline)
    page = write_page(table, out)
    plots = _plot(table, out)
    blocks = ["# Ablation", setting(table), summary(table), "## Accuracy", accuracy(table), *plots[:1]]
    blocks += ["## Differences", differences(table), compared(table), losses(table), by_type(table), *plots[1:2]]
    blocks += [evidence(table), cost(table), *plots[2:], provenance_section(table)]
    text = "\n\n".join(block for block in blocks if block) + "\n"
    replace_file(out / REPORT, lambda beside: beside.write_text(text))
    print(f"{accuracy(table)}\n\n{differences(table)}\n\nreport: {out / REPORT}\npage: {page}")
    return out / REPORT


def _plot(table: Table, out: Path) -> list[str]:
    """Draw the pictures; returns the lines that show them."""
    tokens = table.curves(lambda name, budget: table.cells_of(name, budget)[0]["tokens"])
    plot_accuracy(tokens, table.full, out / "accuracy.png")
    plot_types(table, out / "types.png")
    shown = {"accuracy": "accuracy against budget", "types": "accuracy by type"}
    for measure in plotted_measures():
        plot_cost(table.curves(partial(table.cost, measure)), table.full, measure, out / f"{measure.key}.png")
        shown[measure.key] = f"accuracy against {measure.title}"
    return [f"![{text}]({name}.png)" for name, text in shown.items()]


def provenance_section(table: Table) -> str:
    """Where the numbers come from: machines, versions, source, times."""
    lines = []
    for name in ("machine", "versions", "git"):
        kinds = {str(sorted(cell[name].items()) if cell[name] else None): cell[name] for cell in table.cells}
        lines += [f"- {name}: {_plain(one)}" for one in kinds.values()]
    first, last = min(cell["started"] for cell in table.cells), max(cell["finished"] for cell in table.cells)
    return "\n".join(["## Where this comes from", "", *lines, f"- {len(table.cells)} cells, {first} to {last}"])


def _plain(fields: dict[str, object] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None) if fields else "unknown"
