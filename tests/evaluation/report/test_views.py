"""Views besides equal tokens: in the report, and on the page without scrolling sideways at 1400 pixels."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from framefold.evaluation.report.report import report
from framefold.evaluation.results.result_files import write_result
from tests.support.pages.browser import Browser, needs_chromium, wait_for_panels
from tests.support.pages.results_folders import edit_results, fill_results, random_outcome, result_settings

NAMES = "[...document.querySelectorAll('#table tbody th')].map(one => one.textContent)"
CELLS = "[...document.querySelectorAll('#table tbody tr:nth-child({0}) td.number')].map(one => one.textContent)"


def add_views(result: dict[str, Any]) -> None:
    """Add costs of everything and positions: a tower of 40, a limit of 100 at 64 tokens and of 62 at 26."""
    cost, columns, count = result["cost"], result["answers"], result["n"]
    tower = 10.0 if result["compressor"] == "uniform" else 40.0  # it encodes fewer frames
    work = 200.0 if result["compressor"] == "pool" else 0.0  # an expensive compressor
    cost |= {"tower_flops": tower, "compressor_flops": work, "prefill_flops": result["tokens"], "answer_flops": 0.0}
    cost |= {"full_total_flops": 300.0, "tower_ms": 1.0, "question_ms": 0.5, "per_question": 0.0}
    cost["budget_flops"] = 40.0 + result["tokens"]
    columns["when"] = [(number % 10 + 0.5) / 10 for number in range(count)]
    columns["where"] = ["centre" if number % 3 else "edge" for number in range(count)]


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = fill_results(tmp_path_factory.mktemp("views"))
    for budget, tokens in ((0.25, 64), (0.1, 26)):
        for name in ("storm (trained at 0.1)", "storm (trained at 0.5)"):
            settings = result_settings(name, budget, adapter=64 * "a")
            write_result(out, settings, random_outcome(name, 0.6, tokens))
        resized = random_outcome("resize", 0.5, tokens)
        for answer in resized.answers:
            answer["again"] = not answer["correct"] if answer["type"] == "needle" else answer["correct"]
        write_result(out, result_settings("resize", budget), resized)
    edit_results(out, add_views)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        report(str(out))
    return out


def section(out: Path, title: str) -> str:
    return (out / "report.md").read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_at_equal_flops_a_method_is_read_at_the_largest_of_its_budgets_that_fits(views: Path) -> None:
    text = section(views, "At equal FLOPs")
    assert "| compressor | FLOPs of 25 % (104) | FLOPs of 10 % (66) |" in text
    tokens = row(section(views, "Accuracy"), "uniform")
    assert row(text, "uniform") == ["uniform", f"{tokens[1]} at 25 %", f"{tokens[2]} at 10 %"], "74 is more than 66"
    assert "| pool |" not in text and "| oracle |" not in text


def test_every_position_has_its_column(views: Path) -> None:
    text = section(views, "By position of the evidence")
    assert "| at 25 % | 0-10 % | 10-20 % |" in text and "| 90-100 % | centre | edge |" in text
    assert len([cell for cell in row(text, "fila") if "[" in cell]) == 12
    assert "<summary>evidence recall at 25 %</summary>" in text and "<summary>at 10 %</summary>" in text


def test_asked_again_resize_and_the_matrix_have_sections(views: Path) -> None:
    assert "| resize |" in section(views, "Asked again") and "| fila |" not in section(views, "Asked again")
    fails = section(views, "Where resize fails")
    assert "| fila |" in fails and "| resize |" not in fails
    matrix = section(views, "Trained at and run at")
    assert "| storm, trained at | run at 25 % | run at 10 % |" in matrix
    rows = [row(matrix, label) for label in ("0.1", "0.5")]
    for column in (1, 2):
        assert sum(one[column].startswith("**") for one in rows) == 1, "the best of a column is bold"


@needs_chromium
def test_three_views_of_the_page_fit_1400_pixels(browser: Browser, views: Path) -> None:
    browser.open(views / "report.html", width=1400)
    wait_for_panels(browser)
    browser.js("[...document.querySelectorAll('#methods button')][0].click()")
    box = "document.querySelector('#table').parentElement"
    columns = {"tokens": 2, "flops": 2, "places": 12}
    assert browser.js("[...document.querySelector('#view').options].map(one => one.value)") == list(columns)
    for view, count in columns.items():
        browser.choose("#view", view)
        assert browser.js(f"{box}.scrollWidth <= {box}.clientWidth"), view
        assert browser.js("document.querySelectorAll('#table thead th').length") == count + 2, view
        browser.click("#table thead th:nth-child(3) button")
        values = browser.js(
            "[...document.querySelectorAll('#table tbody tr td:nth-child(3) .value')].map(one => +one.textContent)"
        )
        assert values == sorted(values, reverse=True) and len(values) >= 4, view
    assert browser.errors == []


@needs_chromium
def test_the_page_reads_a_method_where_the_report_does(browser: Browser, views: Path) -> None:
    browser.open(views / "report.html", width=1400)
    wait_for_panels(browser)
    browser.js("[...document.querySelectorAll('#methods button')][0].click()")
    browser.choose("#view", "flops")
    names = browser.js(NAMES)
    shown = browser.js(CELLS.format(names.index("uniform") + 1))
    expected = row(section(views, "At equal FLOPs"), "uniform")[1:]
    assert [text.replace(" best in this column", "") for text in shown] == [
        text.replace("] at", "]at") for text in expected
    ]
    browser.choose("#view", "places")
    browser.choose("#place-budget", "1")
    browser.choose("#measure", "recall")
    assert "recall" in browser.js("document.querySelector('#measure-note').textContent")
    assert browser.js(CELLS.format(1))[0]


def add_losses(result: dict[str, Any]) -> None:
    """Add losses of three tokens to every third answer; all tokens have 1 nat at each, others a nat more at each."""
    more = 0.0 if result["compressor"] == "identity" else 1.0 if result["budget"] == 0.25 else 2.0
    losses = [1.0, 1.0 + more, 1.0 + 2 * more]
    result["answers"]["losses"] = [losses if number % 3 == 0 else None for number in range(result["n"])]


@needs_chromium
def test_loss_by_position_in_long_answers_is_a_section_and_a_view(
    browser: Browser, views: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "long"
    shutil.copytree(views, out)
    edit_results(out, lambda one: "cost" in one and add_losses(one))
    monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
    report(str(out))
    text = section(out, "By position in long answers")
    assert "| added loss at 25 % | all tokens | token 1 | token 2 | tokens 3-4 |" in text
    assert row(text, "fila")[1:] == [
        "+1.00 [1.00, 1.00]",
        "+0.00 [0.00, 0.00]",
        "+1.00 [1.00, 1.00]",
        "+2.00 [2.00, 2.00]",
    ]
    assert row(text, "all tokens")[1:] == ["1.00 [1.00, 1.00]"] * 4
    assert "By position in long answers" not in (views / "report.md").read_text()

    browser.open(out / "report.html", width=1400)
    wait_for_panels(browser)
    browser.choose("#view", "positions")
    browser.choose("#place-budget", "1")
    box = "document.querySelector('#table').parentElement"
    assert browser.js(f"{box}.scrollWidth <= {box}.clientWidth")
    assert [cell.split(" ")[0] for cell in browser.js(CELLS.format(1))] == ["+2.000", "+0.000", "+2.000", "+4.000"]
    browser.choose("#measure", "loss_at:all")
    assert [cell.split(" ")[0] for cell in browser.js(CELLS.format(1))] == ["3.000", "1.000", "3.000", "5.000"]
    assert browser.errors == []
