"""The table that ``framefold.ablate`` returns: rows, differences, text, and data frames."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from framefold.errors import ConfigError, MissingExtraError
from framefold.evaluation.ablation.ablation_table import AblationTable
from framefold.evaluation.metrics.statistics import Interval
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import read_results
from tests.support.pages.results_folders import BUDGETS, METHODS, fill_results


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> AblationTable:
    out = fill_results(tmp_path_factory.mktemp("results"), kept_videos=0)
    return AblationTable(ResultTable(read_results(out)), out / "report.md", out / "report.html")


def test_there_is_a_row_per_method_and_budget_and_one_for_all_tokens(table: AblationTable) -> None:
    assert {(row.method, row.budget) for row in table} == {(m, b) for m in METHODS for b in BUDGETS} | {
        ("all tokens", 1.0)
    }
    assert len(table) == len(METHODS) * len(BUDGETS) + 1
    assert {row.kind for row in table} == {"trained", "training-free", "oracle", "all tokens"}
    for row in table:
        assert row.accuracy.low <= row.accuracy.value <= row.accuracy.high <= 1, row
        assert row.tokens == BUDGETS.get(row.budget, 256), row
        assert "(" not in row.method and set(row.costs) == set(table.rows[0].costs), row
    pool, oracle = table.row("pool", 0.1), table.row("oracle", 0.1)
    assert pool.costs["total_ms"] == pytest.approx(pool.costs["compressor_ms"] + pool.costs["prefill_ms"])
    assert pool.costs["prefill_ms"] == 2.6 and pool.costs["peak_bytes"] == 52000
    assert oracle.costs["compressor_ms"] is None and oracle.costs["prefill_ms"] == 2.6


def test_differences_are_paired_and_those_from_the_baseline_have_a_p(table: AblationTable) -> None:
    assert table.baseline == "st_simdiff"
    fila, baseline = table.row("fila", 0.25), table.row("st_simdiff", 0.25)
    assert isinstance(fila.difference, Interval) and fila.p is not None and 0 < fila.p <= 1
    assert fila.difference == table.difference("fila", "st_simdiff", 0.25)
    assert fila.difference.value == pytest.approx(fila.accuracy.value - baseline.accuracy.value)
    assert baseline.difference is baseline.p is table.row("all tokens").difference is None
    back = table.difference("st_simdiff", "fila", 0.25)
    assert back is not None and back.value == pytest.approx(-fila.difference.value)
    tests = table.results.comparisons([None], table.results.budgets)
    assert fila.p == tests["fila", "25 %", None].flip_holm


def test_rows_that_were_not_run_are_refused_with_what_there_is(table: AblationTable) -> None:
    for arguments, text in (
        (("fil", 0.25), "no method 'fil'.*did you mean 'fila'"),
        (("fila", 0.5), "no single row of fila at budget 0.5: its budgets are 0.25, 0.1"),
        (("fila", 1), "at budget 1:"),
        (("fila", None), "no single row of fila without a budget"),
    ):
        with pytest.raises(ConfigError, match=text):
            table.row(*arguments)
    with pytest.raises(ConfigError, match="did you mean 'uniform'"):
        table.difference("fila", "unifrm", 0.1)


def test_it_is_printed_and_displayed_as_tables(table: AblationTable) -> None:
    for text in (str(table), table._repr_markdown_()):
        assert "| compressor | 25 % (64 tokens) | 10 % (26 tokens) |\n| --- | --- | --- |" in text
        assert "| paired difference | 25 % | 10 % |" in text and "| all tokens | " in text
        assert str(table.report) in text and str(table.page) in text
    assert repr(table) == f"<AblationTable of 11 rows in {table.report.parent}>"


def test_pandas_gets_flat_rows_and_is_named_where_it_is_missing(
    table: AblationTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = table.to_dicts()
    assert len(records) == len(table) and all(list(one) == list(records[0]) for one in records)
    first = {"method", "kind", "budget", "tokens", "p"}
    first |= {f"{name}{end}" for name in ("accuracy", "difference") for end in ("", "_low", "_high")}
    assert first <= set(records[0]) and {"total_ms", "speedup", "peak_bytes", "loss", "recall"} <= set(records[0])
    assert records[-1]["method"] == "all tokens" and records[-1]["difference_low"] is None
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=tuple))
    assert table.to_pandas() == tuple(records)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install pandas.*to_dicts\(\)"):
        table.to_pandas()


def test_answers_that_accuracy_cannot_measure_are_printed_as_by_the_report(tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.support.pages.simple_results import SETTINGS, simple_answers, write_simple_result

    answers = [one | {"answer": "a long sentence", "correct": False} for one in simple_answers(0.5, 10)]
    write_simple_result(tmp_path, replace(SETTINGS, compressor="uniform", budget=0.1), answers)
    table = AblationTable(ResultTable(read_results(tmp_path)), tmp_path / "report.md", tmp_path / "report.html")
    assert str(table).startswith("Accuracy does not suit these answers") and len(table) == 1
