"""Committed results: every number of a folder can be recomputed from one file, without the folder and a host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from framefold.__main__ import main
from framefold.errors import ConfigError, ResultsError
from framefold.evaluation.committed.command import committed
from framefold.evaluation.report.markdown_tables import comparison_section, main_tables, type_section
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.report.view_sections import (
    answer_position_section,
    asked_again_section,
    equal_flops_section,
    position_section,
)
from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.result_files import read_results
from tests.support.pages.results_folders import edit_results, inside_results

DOCUMENT = """# A document

<!-- ablation small: accuracy | fila, all tokens | 10 % -->
| old | numbers |
<!-- end of ablation -->

Text.

<!-- ablation other: accuracy -->
<!-- end of ablation -->
<!-- ablation small: differences -->
<!-- end of ablation -->
"""


def add_columns(result: dict) -> None:
    columns, count = result["answers"], result["n"]
    columns["when"] = [(number % 10 + 0.5) / 10 for number in range(count)]
    columns["where"] = ["edge", None, "centre"] * (count // 3) + ["edge"] * (count % 3)
    columns["recall"] = [None if number % 5 == 0 else number % 2 / 1 for number in range(count)]
    lengths = [number % 4 for number in range(count)]
    columns["losses"] = [[round(0.001 * count + one, 3) for one in range(n)] if n > 1 else None for n in lengths]
    if result["compressor"] == "oracle":
        columns["again"] = [None if number % 7 == 0 else number % 3 == 0 for number in range(count)]
    result["cost"] |= {"tower_flops": 1e6, "answer_flops": 1e5, "budget_flops": 1e9, "full_total_flops": 1e9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return edit_results(
        inside_results(tmp_path_factory.mktemp("folder")), lambda one: "cost" in one and add_columns(one)
    )


def table_of(source: Path) -> ResultTable:
    return ResultTable(read_results(source), None, read_left_out(source))


def test_every_table_of_the_folder_is_recomputed_from_the_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "ablation" / "small.json"
    committed(str(file), results=str(folder))
    ours, theirs = table_of(file), table_of(folder)
    for view in (main_tables, comparison_section, type_section, equal_flops_section, position_section):
        assert view(ours) == view(theirs) != "", view.__name__
    assert answer_position_section(ours) == answer_position_section(theirs) != ""
    assert asked_again_section(ours) == asked_again_section(theirs) != ""
    size = sum(one.stat().st_size for one in (folder / "cells").glob("*.json"))
    assert file.stat().st_size < size / 5 and not list(file.parent.glob("*.tmp*"))


def test_tables_of_documents_are_written_and_checked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, document = tmp_path / "small.json", tmp_path / "README.md"
    document.write_text(DOCUMENT)
    committed(str(file), results=str(folder), fill=[str(document)])
    text = document.read_text()
    (fila,) = (line for line in text.splitlines() if line.startswith("| fila |"))
    assert fila.split("|")[2].strip() in main_tables(table_of(file)), "the number of the report"
    assert "| 276 questions | 10 % (26 tokens) |" in text and "| old | numbers |" not in text
    assert "<!-- ablation other: accuracy -->\n<!-- end of ablation -->" in text, "other results are left alone"
    assert "| paired difference | 25 % | 10 % |" in text
    assert main(["committed", "--file", str(file), "--fill", f"['{document}']", "--check", "true"]) == 0
    document.write_text(text.replace(fila, fila.replace(".", ",")))
    with pytest.raises(ResultsError, match="tables differ from .*README.md"):
        committed(str(file), fill=[str(document)], check=True)
    assert fila not in document.read_text(), "check writes nothing"
    committed(str(file), fill=[str(document)])
    assert document.read_text() == text


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("ablation small: acuracy", "no table 'acuracy'"),
        ("ablation small: accuracy | filla", "no 'filla'.*did you mean 'fila'"),
        ("ablation small: accuracy | fila | 11 %", "no '11 %'"),
        ("ablation other: accuracy", "has no table of small"),
    ],
)
def test_unknown_names_in_documents_are_errors(folder: Path, tmp_path: Path, block: str, message: str) -> None:
    document = tmp_path / "doc.md"
    document.write_text(f"<!-- {block} -->\n<!-- end of ablation -->\n")
    with pytest.raises(ConfigError, match=message):
        committed(str(tmp_path / "small.json"), results=str(folder), fill=[str(document)])


def test_damaged_files_are_errors_that_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.json"
    committed(str(file), results=str(folder))
    damaged = shutil.copy(file, tmp_path / "damaged.json")
    damaged.write_text(file.read_text().replace('"n":276', '"n":275', 1))
    with pytest.raises(ResultsError, match="damaged.*do not have 275 answers.*write it again"):
        read_results(damaged)
    damaged.write_text("{}")
    with pytest.raises(ResultsError, match="damaged"):
        read_results(damaged)
    with pytest.raises(ConfigError, match="name them with --fill"):
        committed(str(file), check=True)
