"""Published tables: the committed file is complete and adds up, and a damaged one is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from framefold.adapters.core.registry import list_compressors
from framefold.errors import ResultsError
from framefold.evaluation.results.published import BENCHMARKS, read_published
from tests.support.paths import ROOT

COMMITTED = ROOT / "docs" / "measured" / "published.json"
ROW = {"ratio": 0.1, "method": "pool", "videomme": 40.0, "mlvu": 50.0}
TABLE = {"name": "A", "host": "H", "source": "S", "unpruned": {"videomme": 50.0, "mlvu": 50.0}, "rows": [ROW]}


def write(folder: Path, *tables: dict[str, Any]) -> Path:
    file = folder / "published.json"
    file.write_text(json.dumps({"tables": tables}))
    return file


def test_averages_that_papers_print_are_those_of_the_copied_scores() -> None:
    """A check of the copy. Papers average before they round: 0.15 is the largest difference."""
    compared = 0
    for table in read_published(COMMITTED):
        for scores in [table.unpruned, *(row for rows in table.rows.values() for row in rows.values())]:
            copied = [scores[name] for name in BENCHMARKS if name in scores]
            if "printed" in scores:
                assert sum(copied) / len(copied) == pytest.approx(scores["printed"], abs=0.16), (table.name, scores)
                compared += 1
    assert compared > 45


def test_every_table_says_where_it_was_read_and_names_registered_methods() -> None:
    names = set(list_compressors())
    for table in read_published(COMMITTED):
        assert re.search(r"arXiv \d{4}\.\d{5}, table \d", table.source), table.source
        assert all(len(rows) >= 3 and names >= set(rows) for rows in table.rows.values())


def test_scores_are_relative_to_those_of_all_tokens(tmp_path: Path) -> None:
    (table,) = read_published(write(tmp_path, TABLE))
    assert table.relative(0.1, ["pool"], ["videomme", "mlvu"]) == [0.9]
    assert table.relative(0.1, ["pool"], ["videomme"]) == [0.8]
    assert table.relative(0.1, ["pool"], ["videomme", "egoschema"]) == [0.8], "the table has no egoschema"


def test_a_benchmark_that_one_method_lacks_is_left_out_for_all(tmp_path: Path) -> None:
    other = {"ratio": 0.1, "method": "uniform", "videomme": 30.0}
    (table,) = read_published(write(tmp_path, {**TABLE, "rows": [ROW, other]}))
    assert table.relative(0.1, ["pool", "uniform"], ["videomme", "mlvu"]) == [0.8, 0.6]
    with pytest.raises(ResultsError, match="has none of mlvu"):
        table.relative(0.1, ["pool", "uniform"], ["mlvu"])


def test_equal_sums_of_decimal_fractions_are_equal(tmp_path: Path) -> None:
    scores = [(42.2, 51.0, 54.1), (43.3, 49.9, 54.1)]
    names = ("mlvu", "videomme", "longvideobench")
    rows = [
        {"ratio": 0.1, "method": method, **dict(zip(names, one, strict=True))}
        for method, one in zip(("pool", "uniform"), scores, strict=True)
    ]
    (table,) = read_published(write(tmp_path, {**TABLE, "unpruned": dict.fromkeys(names, 60.0), "rows": rows}))
    first, second = table.relative(0.1, ["pool", "uniform"], names)
    assert first == second


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({**TABLE, "rows": [ROW, ROW]}, "two rows of pool"),
        ({**TABLE, "rows": [{**ROW, "mvlu": 3.0}]}, "mvlu"),
        ({**TABLE, "rows": [{**ROW, "mlvu": "50"}]}, "TypeError|mlvu"),
        ({**TABLE, "rows": [{**ROW, "mlvu": 0.5e3}]}, "no percentage"),
        ({"name": "A"}, "KeyError"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        read_published(write(tmp_path, table))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no .*published\.json: run this in a checkout"):
        read_published(tmp_path / "published.json")
