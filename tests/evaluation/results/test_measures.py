"""A measure is declared once: every table, plot and page shows it without another change."""

import ast
from pathlib import Path

import pytest

from framefold.adapters.core.registry import list_compressors
from framefold.evaluation.report.report import report
from framefold.evaluation.results import measures
from framefold.evaluation.results.measure import Measure
from framefold.evaluation.results.settings import FULL
from tests.support.pages.page_reader import read_page
from tests.support.pages.results_folders import edit_results, fill_results
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


def test_new_measure_is_shown_everywhere_by_its_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, ENERGY, SHARPNESS))
    for name in ("plot_accuracy", "plot_types"):  # they do not show measures
        monkeypatch.setattr(f"framefold.evaluation.report.report.{name}", lambda *args: None)
    out = fill_results(tmp_path)
    edit_results(out, lambda one: one.update(sharpness=0.7, cost={**one["cost"], "joules": one["tokens"]}))
    text = report(str(out)).read_text()
    heads = [line for line in text.splitlines() if line.startswith("| at ") and "| energy, J |" in line]
    assert len(heads) == 2, "the cost tables at both budgets"
    assert "| evidence recall, % / evidence purity, % / sharpness |" in text and " / 0.7 |" in text
    assert "Sharpness: sharpness of the kept tokens." in text
    assert "26 J" in text.split("## In short")[1].split("## Accuracy")[0]
    assert "(joules.png)" in text and (out / "joules.png").read_bytes().startswith(b"\x89PNG")
    _, data = read_page(out)
    (shown,) = [measure for measure in data["measures"] if measure["key"] == "joules"]
    assert shown["label"] == "energy, J" and shown["axis"] and shown["better"] == "lower" and shown["group"] == "costs"
    assert [points[1]["values"]["joules"][3] for points in data["points"]] == ["26"] * len(data["points"])
    assert data["points"][0][0]["values"]["sharpness"] == [0.7, None, None, "0.7"]
    assert data["full"]["values"]["joules"][3] == "256"


def test_results_without_a_measure_leave_its_column_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, ENERGY))
    monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
    text = report(str(fill_results(tmp_path))).read_text()
    line = next(line for line in text.split("energy, J |")[1].splitlines() if line.startswith("| fila |"))
    assert line.endswith("|  |")
    _, data = read_page(tmp_path)
    assert "joules" not in {measure["key"] for measure in data["measures"]}


def test_keys_of_measures_are_unique() -> None:
    keys = [measure.key for measure in measures.MEASURES]
    assert len(set(keys)) == len(keys)
    assert len(set(measures.required_costs())) == len(measures.required_costs())


def test_generic_code_names_no_compressor() -> None:
    names = set(list_compressors()) - {FULL}
    offenders = [
        f"{file}: {node.value}"
        for folder in ("metrics", "results", "report")
        for file in sorted((ROOT / "evaluation" / folder).glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not offenders
