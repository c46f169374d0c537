"""Tables in documents that are written from committed results.

A table stands between two comments. The first says of which results it is, by the name of their file without its
ending, and which table: ``<!-- ablation default: accuracy | fila, uniform | 10 %, 5 % -->``. Methods and budgets may be
left out for all of them. The second is ``<!-- end of ablation -->``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from framefold.errors import ConfigError
from framefold.evaluation.report.markdown import format_table
from framefold.evaluation.report.markdown_tables import difference_table
from framefold.evaluation.report.references import reference_texts
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.report.view_sections import (
    answer_position_section,
    asked_again_section,
    equal_flops_section,
    position_section,
)
from framefold.evaluation.results.measures import ACCURACY
from framefold.files import replace_file
from framefold.messages import nearest

END = "<!-- end of ablation -->"

BLOCK = re.compile(rf"(<!-- ablation (?P<name>\S+): (?P<table>[^|]*?) *(?:\|(?P<rest>.*?))?-->\n).*?({END})", re.DOTALL)

SECTIONS = {
    "differences": difference_table,
    "equal FLOPs": equal_flops_section,
    "position": position_section,
    "asked again": asked_again_section,
    "long answers": answer_position_section,
}


def fill_tables(table: ResultTable, name: str, file: Path) -> tuple[str, str]:
    """Return the text of a document before and after its tables of these results were written anew.

    Args:
        table: committed results.
        name: name of their file without its ending.
        file: Markdown file.

    Raises:
        ConfigError: the document has no table of these results, or names a table, method or budget that they lack.
    """
    before, found = file.read_text(), 0

    def write(match: re.Match[str]) -> str:
        nonlocal found
        if match["name"] != name:
            return match[0]
        found += 1
        lists = [_names(part) for part in (match["rest"] or "").split("|")]
        text = _table(table, match["table"].strip(), *[*lists, [], []][:2])
        return f"{match[1]}{text}\n{END}"

    after = BLOCK.sub(write, before)
    if not found:
        raise ConfigError(f"{file} has no table of {name}: write '<!-- ablation {name}: accuracy -->' and '{END}'")
    return before, after


def write_tables(table: ResultTable, name: str, files: Sequence[Path], check: bool = False) -> list[Path]:
    """Write the tables of documents anew, or only compare them.

    Args:
        table: committed results.
        name: name of their file without its ending.
        files: Markdown files.
        check: write nothing.

    Returns:
        The documents whose tables differed.

    Raises:
        ConfigError: see :func:`fill_tables`.
    """
    different = []
    for file in files:
        before, after = fill_tables(table, name, file)
        if before != after:
            different.append(file)
            if not check:
                replace_file(file, lambda temporary, text=after: temporary.write_text(text))  # type: ignore[misc]
    return different


def _names(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _table(table: ResultTable, kind: str, methods: Sequence[str], budgets: Sequence[str]) -> str:
    if kind in SECTIONS and not methods and not budgets:
        return SECTIONS[kind](table)
    if kind != "accuracy":
        known = ["accuracy", *SECTIONS]
        raise ConfigError(f"there is no table {kind!r}{nearest(kind, known)}: {', '.join(known)}")
    references = dict(reference_texts(table))
    rows = [*table.methods, *references]
    for one, known in [*((one, rows) for one in methods), *((one, table.budgets) for one in budgets)]:
        if one not in known:
            raise ConfigError(f"the results have no {one!r}{nearest(one, known)}: {', '.join(known)}")
    shown = list(budgets) or table.budgets
    lines = []
    for method in methods or rows:
        texts = [_accuracy(table, method, budget) for budget in shown]
        lines.append([method, *([references[method]] * len(shown) if method in references else texts)])
    heads = [f"{one} ({'/'.join(map(str, table.tokens(one)))} tokens)" for one in shown]
    return format_table([f"{table.sample['n']:,} questions", *heads], lines)


def _accuracy(table: ResultTable, method: str, budget: str) -> str:
    return table.left_out_text(method, budget) or ACCURACY.text(table.readings(method, budget))
