"""A measure is declared once: every table, plot and page shows it without another change."""

import ast
from pathlib import Path

import pytest

from framefold.adapters.core.registry import list_compressors
from framefold.evaluation.report.report import report
from framefold.evaluation.results import measures
from framefold.evaluation.results.measure import Measure
from framefold.evaluation.results.settings import FULL
from tests.evaluation.report.test_page import read
from tests.support.pages.results_folders import change, fill
from tests.support.paths import ROOT

ENERGY = Measure(
    "joules",
    title="energy",
    unit="J",
    description="Energy of a video, in joules",
    better="lower",
    show="{:.0f}".format,
    axis=True,
    hint=True,
    table="cost",
    plot=True,
    phrase="{:.0f} J",
)
SHARPNESS = Measure(
    "sharpness",
    title="sharpness",
    description="Sharpness of the kept tokens",
    better="higher",
    show="{:.1f}".format,
    group="answers",
    table="evidence",
)


def test_a_new_measure_is_shown_everywhere_by_its_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, ENERGY, SHARPNESS))
    change(fill(tmp_path), lambda cell: cell.update(sharpness=0.7, cost={**cell["cost"], "joules": cell["tokens"]}))
    text = report(str(tmp_path)).read_text()
    tables = [line.split(" | ") for line in text.splitlines() if line.startswith("| at ") and "energy, J |" in line]
    assert len(tables) == 2, "the cost table at both budgets"
    assert "| evidence recall, % / evidence purity, % / sharpness |" in text and " / 0.7 |" in text
    assert "26 J" in text.split("## In short")[1].split("## Accuracy")[0]
    assert "(joules.png)" in text and (tmp_path / "joules.png").read_bytes().startswith(b"\x89PNG")
    _, data = read(tmp_path)
    (shown,) = [one for one in data["measures"] if one["key"] == "joules"]
    assert shown["label"] == "energy, J" and shown["axis"] and shown["better"] == "lower" and shown["group"] == "costs"
    assert [points[1]["values"]["joules"][3] for points in data["points"]] == ["26"] * len(data["points"])
    assert data["points"][0][0]["values"]["sharpness"] == [0.7, None, None, "0.7"]
    assert data["full"]["values"]["joules"][3] == "256"


def test_results_without_a_measure_are_read_and_leave_its_column_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, ENERGY))
    monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
    text = report(str(fill(tmp_path))).read_text()
    line = next(line for line in text.split("energy, J |")[1].splitlines() if line.startswith("| fila |"))
    assert line.endswith("|  |")
    _, data = read(tmp_path)
    assert "joules" not in {one["key"] for one in data["measures"]}


def test_every_measure_has_its_own_key() -> None:

    assert len({one.key for one in measures.MEASURES}) == len(measures.MEASURES)
    assert len(set(measures.required_costs())) == len(measures.required_costs())


def test_no_compressor_is_named_in_generic_code() -> None:
    names = set(list_compressors()) - {FULL}
    offenders = [
        f"{file}: {node.value}"
        for folder in ("metrics", "results", "report")
        for file in sorted((ROOT / "evaluation" / folder).glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not offenders
