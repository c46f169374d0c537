"""The report of an ablation: ``report.md`` with its plots, and the page; every number is from the result files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.measures import plotted_measures
from framefold.evaluation.results.result_files import read_results
from framefold.evaluation.results.settings import REPORT
from framefold.files import replace_file

from .markdown_tables import (
    accuracy_table,
    answer_section,
    comparison_section,
    cost_section,
    difference_table,
    evidence_section,
    left_out_list,
    main_tables,
    setting_paragraph,
    type_section,
    unsuited_note,
)
from .page import write_page
from .plots import plot_accuracy, plot_cost, plot_types
from .styles import method_styles
from .summary import losses, summary
from .table import ResultTable
from .view_sections import (
    answer_position_section,
    asked_again_section,
    equal_flops_section,
    position_section,
    resize_fails_section,
    trained_at_section,
)


def report(results: str, baseline: str | None = None, out: str | None = None) -> Path | None:
    """Write ``report.md``, its plots and ``report.html`` from results, and print the main tables.

    Args:
        results: the ``--out`` folder of ``framefold ablate``, or a file that ``framefold committed`` has written.
        baseline: method that the others are compared with; by default the strongest baseline in the results.
        out: folder to write into; by default that of the results. The tables of a file are only printed without it.

    Returns:
        Path of the report; None if none was written.

    Raises:
        ResultsError: there are no results, one is damaged, they cannot be compared, or the baseline is not among them.
    """
    source = Path(results)
    table = ResultTable(read_results(source), baseline, read_left_out(source))
    if out is None and source.is_file():
        print(main_tables(table))
        return None
    folder = Path(out or results)
    folder.mkdir(parents=True, exist_ok=True)
    page = write_report(table, folder)
    print("\n\n".join([main_tables(table), f"report: {folder / REPORT}\npage: {page}"]))
    return folder / REPORT


def write_report(table: ResultTable, out: Path) -> Path:
    """Write ``report.md``, its plots and ``report.html`` into a folder, and return the path of the latter.

    Raises:
        ResultsError: the answers or kept tokens of a result are damaged.
    """
    page = write_page(table, out)
    plots = _plot(table, out)
    answers, note = answer_section(table), unsuited_note(table)
    blocks = ["# Ablation", setting_paragraph(table), *([answers] if note else [summary(table)])]
    blocks += ["## Accuracy", accuracy_table(table), left_out_list(table), *plots[:1], *([] if note else [answers])]
    differences = difference_table(table)
    blocks += ["## Differences" if differences else "", differences, comparison_section(table)]
    blocks += [equal_flops_section(table), losses(table), type_section(table), *plots[1:2], position_section(table)]
    blocks += [answer_position_section(table)]
    blocks += [resize_fails_section(table), asked_again_section(table), trained_at_section(table)]
    blocks += [evidence_section(table), cost_section(table), *plots[2:], _provenance_section(table)]
    text = "\n\n".join(block for block in blocks if block) + "\n"
    replace_file(out / REPORT, lambda temporary: temporary.write_text(text))
    return page


def _plot(table: ResultTable, out: Path) -> list[str]:
    """Write the plots and return the Markdown lines that show them."""
    tokens = table.curves(lambda method, budget: table.results_of(method, budget)[0]["tokens"])
    styles = method_styles({method: table.kind(method) for method in table.methods})
    plot_accuracy(tokens, styles, table.full_accuracy, out / "accuracy.png")
    plot_types(table, out / "types.png")
    shown = {"accuracy": "accuracy against budget", "types": "accuracy by type"}
    for measure in plotted_measures():
        plot_cost(
            table.curves(partial(table.cost, measure)), styles, table.full_accuracy, measure, out / f"{measure.key}.png"
        )
        shown[measure.key] = f"accuracy against {measure.title}"
    return [f"![{text}]({name}.png)" for name, text in shown.items()]


def _provenance_section(table: ResultTable) -> str:
    """Return the section that lists machines, versions, source and times."""
    lines = []
    for name in ("machine", "versions", "git"):
        different = {str(sorted(one[name].items()) if one[name] else None): one[name] for one in table.results}
        lines += [f"- {name}: {_format_fields(fields)}" for fields in different.values()]
    first, last = min(one["started"] for one in table.results), max(one["finished"] for one in table.results)
    return "\n".join(["## Provenance", "", *lines, f"- {len(table.results)} results, {first} to {last}"])


def _format_fields(fields: dict[str, object] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items() if value is not None) if fields else "unknown"
