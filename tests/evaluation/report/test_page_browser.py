"""The page of an ablation as users operate it, in Chromium: mouse, keyboard, narrow window, dark colours."""

import json
from pathlib import Path
from typing import Any

from framefold.evaluation.report.page import write_page
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.result_files import read_results
from tests.support.pages.browser import Browser, needs_chromium, wait_for_panels
from tests.support.pages.page_reader import HOSTILE, make_hostile
from tests.support.pages.results_folders import METHODS, edit_results, fill_results, inside_results

pytestmark = needs_chromium
NAMES = "[...document.querySelectorAll('#table tbody th')].map(one => one.textContent)"
TIP = "document.querySelector('#tip').hidden ? '' : document.querySelector('#tip').innerText"
HOVER = (
    "[...document.querySelectorAll('#{0} .hoverlayer .hovertext text')].flatMap("
    "one => one.querySelector('tspan') ? [...one.querySelectorAll('tspan.line')].map(line => line.textContent)"
    " : [one.textContent])"
)
FITS_WINDOW = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"


def sorted_names(data: dict[str, Any], column: int, down: bool) -> list[str]:
    """Return the names of the methods in the order of a column."""
    values = {
        method["name"]: points[column]["values"]["accuracy"][0]
        for method, points in zip(data["methods"], data["points"], strict=True)
    }
    return sorted(values, key=lambda name: values[name], reverse=down)


def test_page_loads_nothing_and_logs_no_errors(page: Browser, folder: Path) -> None:
    page.js("scrollTo(0, document.documentElement.scrollHeight)")
    asked = [url for url in page.requests if not url.startswith("data:image/")]
    assert asked == [(folder / "report.html").as_uri()] and page.errors == []


def test_other_scripts_are_blocked(page: Browser) -> None:
    page.js("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.pwned = 1'}))")
    page.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned = 1\">')")
    page.js("fetch('https://example.org').catch(() => 0)")
    page.until("document.querySelector('img[src=x]').complete")
    assert page.js("window.pwned") is None
    assert len(page.errors) >= 3 and all("Content Security Policy" in error for error in page.errors[:3])


def show_all(page: Browser) -> None:
    page.js("document.querySelector('#methods button').click()")


def hint(page: Browser, box: str = "plot-budget") -> list[str]:
    """Return the lines of the hint that a plot shows, once it shows one."""
    page.until(HOVER.format(box) + ".length > 0")
    return page.js(HOVER.format(box))


def test_verdict_and_title_say_what_was_compared_and_what_came_out(page: Browser, data: dict[str, Any]) -> None:
    assert page.js("document.querySelector('#title').textContent").startswith("4 compressors at 25 % and 10 % of the")
    verdict = page.js("document.querySelector('#verdict').innerText")
    assert "In short" in verdict and "Training helped" in verdict and "slightly overestimated" in verdict
    assert page.js("document.querySelector('#verdict').getBoundingClientRect().top") < page.js(
        "document.querySelector('#table').getBoundingClientRect().top"
    )


def test_methods_of_the_verdict_are_shown_first(page: Browser, data: dict[str, Any]) -> None:
    assert page.js(NAMES) == ["fila", "st_simdiff", "pool", "uniform"], "all but the oracle, which is not a compressor"
    checked = "[...document.querySelectorAll('#methods input')].map(one => one.checked)"
    assert page.js(checked) == [method["name"] != "oracle" for method in data["methods"]]


def test_columns_are_sorted_by_click_and_by_key(page: Browser, data: dict[str, Any]) -> None:
    show_all(page)
    assert page.js(NAMES) == [method["name"] for method in data["methods"]]
    page.click("#table th:nth-child(4) button")
    assert page.js(NAMES) == sorted_names(data, 1, down=True)
    page.click("#table th:nth-child(4) button")
    assert page.js(NAMES) == sorted_names(data, 1, down=False)
    sorts = "[...document.querySelectorAll('#table thead th')].map(one => one.ariaSort)"
    assert page.js(sorts) == ["none", "none", "none", "ascending"]
    page.js("document.querySelector('#table thead button').focus()")
    page.press("Enter")
    assert page.js(NAMES) == sorted(METHODS)
    page.press(" ")
    assert page.js(NAMES) == sorted(METHODS, reverse=True), "the focus stays on the column"
    assert page.js(sorts) == ["descending", "none", "none", "none"]


def test_cell_and_mark_show_the_same_hint(page: Browser, data: dict[str, Any]) -> None:
    show_all(page)
    number = [method["name"] for method in data["methods"]].index("pool")
    values = data["points"][number][1]["values"]
    page.point(*page.middle(f"#table tbody tr:nth-child({number + 1}) td:nth-child(4)"))
    lines = page.js(TIP).splitlines()
    page.point(1, 1)
    assert page.js(TIP) == ""
    trace = f"#plot-budget .scatterlayer .trace:nth-child({number + 1})"
    page.point(*page.middle(f"{trace} .points path:nth-of-type(1)"))
    assert hint(page) == lines, "the leftmost mark is the smallest budget"
    assert lines[0] == "pool at 10 %" and f"accuracy, %: {values['accuracy'][3]}" in lines
    for key, label in (("difference", "minus st_simdiff, points"), ("time", "time relative to all tokens, %")):
        assert f"{label}: {values[key][3]}" in lines
    assert f"visual tokens entering the LM: {values['tokens_entered'][3]}" in lines


def test_table_shows_other_measures(page: Browser, data: dict[str, Any]) -> None:
    show_all(page)
    for key in ("difference", "recall", "type:needle", "total_ms"):
        page.choose("#measure", key)
        shown = page.js(
            "[...document.querySelectorAll('#table tbody tr')].map(r => [...r.cells].slice(2).map(c => c.textContent))"
        )
        for texts, method, points in zip(shown, data["methods"], data["points"], strict=True):
            values = [point["values"].get(key) for point in points]
            none = "baseline" if method["name"] == "st_simdiff" and key == "difference" else ""
            assert [t.replace(" best in this column", "") for t in texts] == [one[3] if one else none for one in values]


def test_arrow_keys_move_between_marks(page: Browser, data: dict[str, Any]) -> None:
    show_all(page)
    page.js("document.querySelector('#plot-budget').focus()")
    first = data["methods"][0]["name"]
    assert hint(page)[0] == f"{first} at 10 %"
    page.press("ArrowRight")
    page.until(f"{HOVER.format('plot-budget')}[0] === {json.dumps(f'{first} at 25 %')}")
    seen = [hint(page)[0]]
    for name in sorted_names(data, 0, down=True)[1:]:
        page.press("ArrowDown")
        page.until(f"{HOVER.format('plot-budget')}[0] === {json.dumps(f'{name} at 25 %')}")
        seen.append(hint(page)[0])
        assert page.js("document.querySelector('#live').textContent").startswith(f"{name} at 25 %; ")
    page.press("Escape")
    page.until(f"{HOVER.format('plot-budget')}.length === 0")


def test_methods_can_be_hidden(page: Browser) -> None:
    page.click("#methods label:nth-of-type(2) input")
    assert page.js(NAMES) == ["st_simdiff", "pool", "uniform"]
    page.js("[...document.querySelectorAll('#methods button')].find(one => one.textContent === 'trained').click()")
    assert page.js(NAMES) == ["fila"]
    page.until("document.querySelectorAll('#plot-budget .trace').length === 1")
    page.js("[...document.querySelectorAll('#methods button')].find(one => one.textContent === 'none').click()")
    page.until("document.querySelectorAll('.plot .trace').length === 0")
    assert page.errors == []


def test_every_control_is_reached_by_tab_and_has_a_name(page: Browser) -> None:
    page.js("document.activeElement.blur()")
    seen, name = [], "document.activeElement"
    for _ in range(80):
        page.press("Tab")
        seen.append(page.js(f"{name}.id || {name}.closest('[id]')?.id || {name}.tagName"))
        assert page.js(f"!{name}.matches('select, input') || {name}.labels.length > 0 || !!{name}.ariaLabel"), seen[-1]
        if seen[-1] == "provenance":
            break
    controls = {"methods", "measure", "table", "cost", "plot-budget", "question-budget", "side-A", "questions"}
    assert controls | {"frames-A", "provenance"} <= set(seen), seen


def test_texts_and_lines_have_contrast_in_light_and_dark_colours(
    browser: Browser, folder: Path, data: dict[str, Any]
) -> None:
    names = ["ink", "quiet", "accent", "good", "bad", *(f"c{i}" for i in range(8))]
    style = "getComputedStyle(document.documentElement)"
    for dark in (False, True):
        browser.open(folder / "report.html", dark=dark)
        colors = browser.js(f"{json.dumps(['paper', *names])}.map(name => {style}.getPropertyValue('--' + name))")
        paper, *others = map(luminance, colors)
        assert (paper < 0.05) == dark
        for name, light in zip(names, others, strict=True):
            contrast = (max(paper, light) + 0.05) / (min(paper, light) + 0.05)
            assert contrast >= (3 if name.startswith("c") else 4.5), (name, contrast, dark)


def luminance(color: str) -> float:
    """Return the relative luminance as defined by WCAG."""
    parts = [int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_page_fits_narrow_and_wide_windows_and_nothing_jumps(
    browser: Browser, folder: Path, data: dict[str, Any]
) -> None:
    top = "document.querySelector('#head-questions').getBoundingClientRect().top + scrollY"
    plot = "document.querySelector('#plot-budget')"
    for width, other in ((400, 1280), (1280, 400)):
        browser.open(folder / "report.html", width=width)
        wait_for_panels(browser)
        assert browser.js(FITS_WINDOW), width
        before = browser.js(top)
        browser.click("#table th:nth-child(3) button")
        browser.choose("#cost", "peak_bytes")
        for measure in ("difference", "type:needle", "p", "time"):
            browser.choose("#measure", measure)
            assert browser.js(top) == before, (measure, width)
        browser.js("document.querySelector('#questions input').click()")
        wait_for_panels(browser)
        assert browser.js(top) == before and browser.js(FITS_WINDOW), width
        browser.resize(other)
        browser.until(f"{plot}.querySelector('svg').getBoundingClientRect().width <= {plot}.clientWidth")
        assert browser.js(FITS_WINDOW), (width, other)


def test_hostile_results_are_shown_literally(browser: Browser, tmp_path: Path) -> None:
    out = edit_results(fill_results(tmp_path), make_hostile)
    browser.open(write_page(ResultTable(read_results(out)), out), width=400)
    wait_for_panels(browser)
    assert browser.js("window.pwned") is None and browser.errors == []
    assert len(browser.js("[...document.querySelectorAll('script, img, b')].map(one => one.id)")) == 4
    expected = [replace_surrogates(text) for text in HOSTILE]
    assert {replace_surrogates(name) for name in browser.js(NAMES)} == set(expected[: len(METHODS)])
    assert replace_surrogates(browser.js("document.querySelector('#asked span').textContent")) in expected
    assert browser.js(FITS_WINDOW)


def replace_surrogates(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_results_of_all_tokens_alone_make_a_page(browser: Browser, tmp_path: Path) -> None:
    out = fill_results(tmp_path)
    for file in (out / "cells").glob("*.json"):
        if not file.name.startswith("identity"):
            file.unlink()
    browser.open(write_page(ResultTable(read_results(out)), out))
    assert browser.errors == [] and "all tokens" in browser.js("document.querySelector('#table').innerText")


def test_cells_that_were_left_out_say_so_and_tokens_inside_are_an_axis(browser: Browser, tmp_path: Path) -> None:
    out = inside_results(tmp_path)
    table = ResultTable(read_results(out), left_out=read_left_out(out))
    for width, dark in ((1400, False), (400, True)):
        browser.open(write_page(table, out), width=width, dark=dark)
        show_all(browser)
        rows = browser.js(
            "[...document.querySelectorAll('#table tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
        )
        cells = {row[0].strip().replace("\n", " "): row[2:] for row in rows}
        assert cells["fastv"][1] == cells["fastv (equal FLOPs)"][1] == "not possible: smallest is 25.4 %"
        assert cells["pyramid_drop"] == ["not possible"] * 2 and cells["fastv"][0][0].isdigit()
        assert browser.js(FITS_WINDOW) and browser.errors == []
        for axis in ("tokens_entered", "tokens_mean", "tokens_after", "prefill_flops"):
            browser.choose("#cost", axis)
            label = browser.js("document.querySelector('#plot-cost .xtitle').textContent")
            assert label == browser.js(f"document.querySelector('#cost option[value={axis}]').textContent")
        browser.choose("#measure", "recall_left")
        text = browser.js("document.querySelector('#table').innerText")
        assert "that the last layer still has" in text and "25.0" in text
