"""The page of an ablation as a person uses it, in Chromium: by mouse and by keyboard, on a narrow screen, at night."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.report.page import write_page
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import read_results
from tests.evaluation.report.test_page import HOSTILE, hostile, read
from tests.support.pages.browser import Browser, needs_chromium
from tests.support.pages.results_folders import GRID, ROWS, change, fill

pytestmark = needs_chromium
NAMES = "[...document.querySelectorAll('#table tbody th')].map(one => one.textContent)"
TIP = "document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').innerText"
QUIET = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fill(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, Any]:
    return read(folder)[1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


@pytest.fixture
def page(browser: Browser, folder: Path, data: dict[str, Any]) -> Browser:
    """The page, just opened."""
    browser.open(folder / "report.html")
    drawn(browser)
    return browser


def drawn(browser: Browser) -> None:
    """Wait until both panels show the chosen question."""
    browser.until("document.querySelector('#panels').ariaBusy === 'false'")


def by_value(data: dict[str, Any], column: int, down: bool) -> list[str]:
    """Names of the rows, as a column sorts them."""
    values = {
        row["name"]: points[column]["values"]["accuracy"][0]
        for row, points in zip(data["methods"], data["points"], strict=True)
    }
    return sorted(values, key=lambda name: values[name], reverse=down)


def test_it_loads_nothing_and_complains_of_nothing(page: Browser, folder: Path) -> None:
    page.js("scrollTo(0, document.documentElement.scrollHeight)")
    asked = [url for url in page.requests if not url.startswith("data:image/")]
    assert asked == [(folder / "report.html").as_uri()] and page.errors == []


def test_no_other_script_can_run_in_it(page: Browser) -> None:
    page.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.pwned = 1'}))")
    page.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned = 1\">')")
    page.js("fetch('https://example.org').catch(() => 0)")
    page.until("document.querySelector('img[src=x]').complete")
    assert page.js("window.pwned") is None
    assert len(page.errors) >= 3 and all("Content Security Policy" in error for error in page.errors[:3])


def test_columns_sort_by_click_and_by_key(page: Browser, data: dict[str, Any]) -> None:
    assert page.js(NAMES) == [row["name"] for row in data["methods"]]
    page.click("#table th:nth-child(4) button")
    assert page.js(NAMES) == by_value(data, 1, down=True)
    page.click("#table th:nth-child(4) button")
    assert page.js(NAMES) == by_value(data, 1, down=False)
    sorts = "[...document.querySelectorAll('#table thead th')].map(one => one.ariaSort)"
    assert page.js(sorts) == ["none", "none", "none", "ascending"]
    page.js("document.querySelector('#table thead button').focus()")
    page.press("Enter")
    assert page.js(NAMES) == sorted(ROWS)
    page.press(" ")
    assert page.js(NAMES) == sorted(ROWS, reverse=True), "the focus stays on the column"
    assert page.js(sorts) == ["descending", "none", "none", "none"]


def test_a_cell_and_a_mark_tell_their_numbers(page: Browser, data: dict[str, Any]) -> None:
    row = [one["name"] for one in data["methods"]].index("pool")
    values = data["points"][row][1]["values"]
    page.point(*page.middle(f"#table tbody tr:nth-child({row + 1}) td:nth-child(4)"))
    told = page.js(TIP)
    page.point(1, 1)
    assert page.js(TIP) == ""
    page.point(*page.middle(f"#plot-budget .series[data-method='{row}'] .point:nth-of-type(1) .mark"))
    assert page.js(TIP) == told, "the leftmost mark is the smallest budget"
    lines = told.splitlines()
    assert lines[0] == "pool at 10 %" and f"accuracy, %: {values['accuracy'][3]}" in lines
    for key, label in (("difference", "minus st_simdiff, points"), ("time", "time relative to all tokens, %")):
        assert f"{label}: {values[key][3]}" in lines
    assert f"visual tokens entering the LM: {values['tokens_entered'][3]}" in lines


def test_the_table_shows_other_measures(page: Browser, data: dict[str, Any]) -> None:
    for key in ("difference", "recall", "type:needle", "total_ms"):
        page.choose("#measure", key)
        shown = page.js(
            "[...document.querySelectorAll('#table tbody tr')].map(r => [...r.cells].slice(2).map(c => c.textContent))"
        )
        for texts, row, points in zip(shown, data["methods"], data["points"], strict=True):
            known = [point["values"].get(key) for point in points]
            none = "baseline" if row["name"] == "st_simdiff" and key == "difference" else ""
            assert [t.replace(" best at this budget", "") for t in texts] == [one[3] if one else none for one in known]


def test_arrow_keys_go_from_mark_to_mark(page: Browser, data: dict[str, Any]) -> None:
    page.js("document.querySelector('#plot-budget .point[tabindex=\"0\"]').focus()")
    first = page.js(TIP).splitlines()[0]
    assert first == f"{data['methods'][0]['name']} at 10 %"
    page.press("ArrowRight")
    assert page.js(TIP).splitlines()[0] == f"{data['methods'][0]['name']} at 25 %"
    seen = [page.js(TIP).splitlines()[0]]
    for _ in range(len(ROWS) - 1):
        page.press("ArrowDown")
        seen.append(page.js(TIP).splitlines()[0])
    assert [one.removesuffix(" at 25 %") for one in seen] == by_value(data, 0, down=True)
    assert page.js("document.querySelectorAll('#plot-budget [tabindex=\"0\"]').length") == 1, "one stop for Tab"
    page.press("Escape")
    assert page.js(TIP) == ""


def test_rows_can_be_hidden(page: Browser) -> None:
    page.click("#methods label:nth-of-type(2) input")
    page.js("[...document.querySelectorAll('#methods button')].find(one => one.textContent === 'trained').click()")
    assert page.js(NAMES) == ["fila"]
    assert page.js("document.querySelectorAll('#plot-budget .line').length") == 1
    page.js("[...document.querySelectorAll('#methods button')].find(one => one.textContent === 'none').click()")
    assert page.js("document.querySelectorAll('.point').length") == 0 and page.errors == []


# The middle of the upper edge of each place of each frame: kept ones have a bright outline, dropped ones are dark.
EDGES = """((canvas, rows, columns) => canvas.layout.boxes.map(box => [...Array(rows * columns).keys()].map(i => {
  const x = box.x + (i % columns + 0.5) * box.wide / columns;
  const y = box.y + Math.floor(i / columns) * box.high / rows;
  return Math.min(...canvas.getContext("2d").getImageData(Math.round(x), Math.ceil(y), 1, 1).data) > 150;
})))"""
# The middle of a place of a frame, in the window.
MIDDLE = """((canvas, step, row, column, rows, columns) => {
  const [frame, box] = [canvas.getBoundingClientRect(), canvas.layout.boxes[step]];
  return [frame.x + box.x + (column + 0.5) * box.wide / columns, frame.y + box.y + (row + 0.5) * box.high / rows];
})"""


def on_canvas(page: Browser, function: str, side: str, *values: int) -> Any:
    """What a function of the canvas of a side, and of numbers, gives."""
    words = ", ".join([f"document.getElementById('frames-{side}')", *map(str, values)])
    return page.js(f"{function}({words})")


def compare(page: Browser, *names: str) -> None:
    """Choose A and B by their names."""
    for side, name in zip("AB", names, strict=False):
        options = f"[...document.querySelectorAll('#side-{side} option')]"
        page.choose(f"#side-{side}", page.js(f"{options}.find(one => one.textContent === {json.dumps(name)}).value"))


def ask(page: Browser, number: int) -> None:
    """Choose a question."""
    page.js(f"document.querySelector('#questions input[value=\"{number}\"]').click()")
    drawn(page)


def text_of(page: Browser, name: str) -> str:
    return page.js(f"document.getElementById('{name}').textContent")


@pytest.mark.parametrize("names", [("uniform", "pool"), ("oracle", "fila, seed 1")])
def test_two_compressors_side_by_side_show_what_each_kept(
    page: Browser, folder: Path, data: dict[str, Any], names: tuple[str, str]
) -> None:
    cells = {(c["compressor"], c["budget"], c["seed"]): c for c in read_results(folder)}
    compare(page, *names)
    for number in (0, 5, len(data["detail"]["questions"]) - 1):
        ask(page, number)
        question = data["detail"]["questions"][number]
        for side, name in zip("AB", names, strict=True):
            base, _, seed = name.partition(", seed ")
            cell, place = cells[base, budget_of(page), int(seed or 0)], question["number"]
            video = cell["answers"]["video"][place]
            (kept,) = [one for one in cell["kept"] if one["video"] == video and one["row"] in (None, place)]
            bright = on_canvas(page, EDGES, side, GRID[1], GRID[2])
            seen = {place for place, clear in enumerate(clear for frame in bright for clear in frame) if clear}
            hidden = around(question["boxes"])
            assert len(hidden) < 128 and seen - hidden == set(kept["index"]) - hidden, (name, number)
            assert text_of(page, f"name-{side}") == f"{side}: {name}"
            mark = "✓ right: " if cell["answers"]["correct"][place] else "✗ wrong: "
            assert text_of(page, f"said-{side}") == mark + cell["answers"]["said"][place]
            recall = f"{100 * cell['answers']['recall'][place]:.0f} % of the evidence kept"
            assert text_of(page, f"facts-{side}").startswith(f"{len(kept['index'])} of 256 tokens · {recall}")


def budget_of(page: Browser) -> float:
    return {"25 %": 0.25, "10 %": 0.1}[
        page.js("document.querySelector('#question-budget').selectedOptions[0].textContent")
    ]


def around(boxes: list[list[float]]) -> set[int]:
    """Places that an outline of evidence may lie on."""
    places = set()
    for step, top, left, bottom, right in boxes:
        for row in range(max(0, int(top * GRID[1]) - 1), min(GRID[1], int(bottom * GRID[1]) + 2)):
            for column in range(max(0, int(left * GRID[2]) - 1), min(GRID[2], int(right * GRID[2]) + 2)):
                places.add(int((step * GRID[1] + row) * GRID[2] + column))
    return places


def test_merged_tokens_say_of_how_many(page: Browser, folder: Path) -> None:
    (cell,) = [c for c in read_results(folder) if (c["compressor"], c["budget"]) == ("pool", 0.1)]
    page.choose("#question-budget", 1)
    compare(page, "pool")
    ask(page, 0)
    kept = cell["kept"][0]
    page.middle("#frames-A")
    for index, size in list(zip(kept["index"], kept["size"], strict=True))[:6]:
        step, place = divmod(index, GRID[1] * GRID[2])
        page.point(*on_canvas(page, MIDDLE, "A", step, *divmod(place, GRID[2]), GRID[1], GRID[2]))
        told = page.js(TIP).splitlines()
        inside = sum(other // 16 == step for other in kept["index"])
        assert told[0].startswith(f"frame {step} at {step / 2:g} s")
        assert (
            told[1] == f"A: {inside} of 16 tokens kept; here a kept token{f' of {size} originals' if size > 1 else ''}"
        )


def test_questions_are_filtered_by_outcome_and_type(page: Browser, folder: Path, data: dict[str, Any]) -> None:
    (a, b) = (page.js(f"document.querySelector('#side-{side}').selectedOptions[0].textContent") for side in "AB")
    assert (a, b) == ("fila, seed 0", "st_simdiff"), "the best against the baseline"
    at = budget_of(page)
    cells = {c["compressor"]: c["answers"] for c in read_results(folder) if c["budget"] == at and c["seed"] == 0}
    right = [cells[name]["correct"] for name in ("fila", "st_simdiff")]
    tally = page.js("document.querySelector('#tally').textContent")
    only = [sum(x and not y for x, y in zip(*pair, strict=True)) for pair in (right, right[::-1])]
    assert f"only A {only[0]}, only B {only[1]}," in tally and f"Of all {len(right[0])} questions" in tally
    page.choose("#question-outcome", "10")
    wanted = [
        i for i, q in enumerate(data["detail"]["questions"]) if right[0][q["number"]] and not right[1][q["number"]]
    ]
    listed = "[...document.querySelectorAll('#questions input')].map(one => Number(one.value))"
    assert page.js(listed) == wanted and wanted
    kind = data["detail"]["questions"][wanted[0]]["type"]
    page.choose("#question-type", kind)
    assert page.js(listed) == [i for i in wanted if data["detail"]["questions"][i]["type"] == kind]


def test_questions_and_frames_are_reached_by_keyboard(page: Browser) -> None:
    page.js("document.querySelector('#questions input:checked').focus()")
    chosen = "Number(document.querySelector('#questions input:checked').value)"
    before = page.js(chosen)
    page.press("ArrowDown")
    assert page.js(chosen) == before + 1
    drawn(page)
    page.js("document.querySelector('#frames-B').focus()")
    page.press("ArrowRight", times=3)
    assert page.js(TIP).splitlines()[0].startswith("frame 2 at 1 s")
    assert page.js("document.querySelector('#live').textContent").startswith("frame 2 at 1 s")


def test_every_control_is_reached_by_tab_and_has_a_name(page: Browser) -> None:
    page.js("document.activeElement.blur()")
    seen, name = [], "document.activeElement"
    for _ in range(80):
        page.press("Tab")
        seen.append(page.js(f"{name}.id || {name}.closest('[id]')?.id || {name}.tagName"))
        assert page.js(f"!{name}.matches('select, input') || {name}.labels.length > 0 || !!{name}.ariaLabel"), seen[-1]
        if seen[-1] == "provenance":
            break
    for wanted in (
        "methods",
        "measure",
        "table",
        "cost",
        "plot-budget",
        "question-budget",
        "side-A",
        "questions",
        "frames-A",
        "provenance",
    ):
        assert wanted in seen, wanted


@pytest.mark.parametrize("dark", [False, True])
def test_texts_and_lines_stand_out_by_day_and_by_night(
    browser: Browser, folder: Path, data: dict[str, Any], dark: bool
) -> None:
    browser.open(folder / "report.html", dark=dark)
    names = ["ink", "quiet", "accent", "good", "bad", *(f"c{i}" for i in range(8))]
    style = "getComputedStyle(document.documentElement)"
    colors = browser.js(f"{json.dumps(['paper', *names])}.map(name => {style}.getPropertyValue('--' + name))")
    paper, *others = map(luminance, colors)
    assert (paper < 0.05) == dark
    for name, light in zip(names, others, strict=True):
        contrast = (max(paper, light) + 0.05) / (min(paper, light) + 0.05)
        assert contrast >= (3 if name.startswith("c") else 4.5), (name, contrast)


def luminance(color: str) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_is_wider_than_the_window_and_nothing_jumps(
    browser: Browser, folder: Path, data: dict[str, Any], width: int
) -> None:
    browser.open(folder / "report.html", width=width)
    drawn(browser)
    assert browser.js(QUIET)
    top = "document.querySelector('#head-questions').getBoundingClientRect().top + scrollY"
    before = browser.js(top)
    browser.click("#table th:nth-child(3) button")
    browser.choose("#cost", "peak_bytes")
    for measure in ("difference", "type:needle", "p", "time"):
        browser.choose("#measure", measure)
        assert browser.js(top) == before, measure
    browser.js("document.querySelector('#questions input').click()")
    drawn(browser)
    assert browser.js(top) == before and browser.js(QUIET)
    browser.resize(1280 if width == 400 else 400)
    browser.until(
        "document.querySelector('#plot-budget svg').clientWidth <= document.querySelector('#plot-budget').clientWidth"
    )
    assert browser.js(QUIET)


def test_hostile_results_are_shown_as_they_are_written(browser: Browser, tmp_path: Path) -> None:
    out = change(fill(tmp_path), hostile)
    browser.open(write_page(ResultTable(read_results(out)), out), width=400)
    drawn(browser)
    assert browser.js("window.pwned") is None and browser.errors == []
    assert len(browser.js("[...document.querySelectorAll('script, img, b')].map(one => one.id)")) == 2
    well = [one.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for one in HOSTILE]
    assert {one.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for one in browser.js(NAMES)} == set(
        well[: len(ROWS)]
    )
    asked = browser.js("document.querySelector('#asked span').textContent")
    assert asked.encode("utf-16", "surrogatepass").decode("utf-16", "replace") in well
    assert browser.js(QUIET)


def test_results_of_all_tokens_alone_are_a_page(browser: Browser, tmp_path: Path) -> None:
    out = fill(tmp_path)
    for file in (out / "cells").glob("*.json"):
        if not file.name.startswith("identity"):
            file.unlink()
    browser.open(write_page(ResultTable(read_results(out)), out))
    assert browser.errors == [] and "all tokens" in browser.js("document.querySelector('#table').innerText")


def test_results_of_a_real_ablation_are_shown(browser: Browser, random_host: Path, tmp_path: Path) -> None:
    ablate(str(tmp_path), str(random_host), ["uniform", "pool"], budgets=[0.25], videos=2, frames=16, drill=1)
    browser.open(tmp_path / "report.html")
    drawn(browser)
    assert browser.errors == [] and browser.js(QUIET)
    cells = {cell["compressor"]: cell for cell in read_results(tmp_path)}
    questions = browser.js("[...document.querySelectorAll('#questions input')].map(one => Number(one.value))")
    assert len(questions) == cells["uniform"]["answers"]["video"].count(0), "those of the first video"
    for name in ("uniform", "pool", "oracle"):
        compare(browser, name)
        ask(browser, questions[1])
        kept = cells[name]["kept"][1 if name == "oracle" else 0]
        bright = on_canvas(browser, EDGES, "A", *kept["grid"][1:])
        seen = {place for place, clear in enumerate(clear for frame in bright for clear in frame) if clear}
        evidence = around(
            json.loads(browser.js("document.getElementById('data').textContent"))["detail"]["questions"][1]["boxes"]
        )
        assert seen - evidence == set(kept["index"]) - evidence and len(evidence) < 128, name
        assert ("shaded" in text_of(browser, "facts-A")) == (name == "pool")
