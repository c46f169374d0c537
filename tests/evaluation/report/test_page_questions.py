"""Single questions on the page, as users compare two methods on them in Chromium."""

import json
import shutil
from pathlib import Path
from typing import Any

from framefold.evaluation.report.page import write_page
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import read_results
from tests.support.pages.browser import Browser, needs_chromium, wait_for_panels
from tests.support.pages.results_folders import GRID
from tests.support.paths import ASSETS

pytestmark = needs_chromium
TIP = "document.querySelector('#tip').innerText"


# For each token of each frame whether the middle of its upper edge is bright, as the outline of kept tokens is.
EDGES = """((canvas, rows, columns) => canvas.layout.boxes.map(box => [...Array(rows * columns).keys()].map(i => {
  const x = box.x + (i % columns + 0.5) * box.wide / columns;
  const y = box.y + Math.floor(i / columns) * box.high / rows;
  return Math.min(...canvas.getContext("2d").getImageData(Math.round(x), Math.ceil(y), 1, 1).data) > 150;
})))"""
# Position in the window of the middle of a token.
MIDDLE = """((canvas, step, row, column, rows, columns) => {
  const [frame, box] = [canvas.getBoundingClientRect(), canvas.layout.boxes[step]];
  return [frame.x + box.x + (column + 0.5) * box.wide / columns, frame.y + box.y + (row + 0.5) * box.high / rows];
})"""


def on_canvas(page: Browser, function: str, side: str, *values: int) -> Any:
    """Call a script function with the canvas of a side and with numbers."""
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
    wait_for_panels(page)


def text_of(page: Browser, name: str) -> str:
    return page.js(f"document.getElementById('{name}').textContent")


def visible_tokens(page: Browser, side: str, rows: int, columns: int) -> set[int]:
    """Return the tokens of all frames that a side shows as kept."""
    frames = on_canvas(page, EDGES, side, rows, columns)
    return {token for token, bright in enumerate(bright for frame in frames for bright in frame) if bright}


def test_both_sides_show_the_kept_tokens_and_the_answer(page: Browser, folder: Path, data: dict[str, Any]) -> None:
    results = {(one["compressor"], one["budget"], one["seed"]): one for one in read_results(folder)}
    for names in (("uniform", "pool"), ("oracle", "fila, seed 1")):
        compare(page, *names)
        for i in (0, 5, len(data["detail"]["questions"]) - 1):
            ask(page, i)
            question = data["detail"]["questions"][i]
            for side, name in zip("AB", names, strict=True):
                method, _, seed = name.partition(", seed ")
                result, number = results[method, budget_of(page), int(seed or 0)], question["number"]
                video = result["answers"]["video"][number]
                (kept,) = [one for one in result["kept"] if one["video"] == video and one["row"] in (None, number)]
                covered = around(question["boxes"])
                visible = visible_tokens(page, side, GRID[1], GRID[2])
                assert len(covered) < 128 and visible - covered == set(kept["index"]) - covered, (name, i)
                assert text_of(page, f"name-{side}") == f"{side}: {name}"
                mark = "✓ right: " if result["answers"]["correct"][number] else "✗ wrong: "
                assert text_of(page, f"said-{side}") == mark + result["answers"]["said"][number]
                recall = f"{100 * result['answers']['recall'][number]:.0f} % of the evidence kept"
                assert text_of(page, f"facts-{side}").startswith(f"{len(kept['index'])} of 256 tokens · {recall}")


def budget_of(page: Browser) -> float:
    label = page.js("document.querySelector('#question-budget').selectedOptions[0].textContent")
    return {"25 %": 0.25, "10 %": 0.1}[label]


def around(boxes: list[list[float]]) -> set[int]:
    """Return the tokens that the outline of evidence may cover."""
    tokens = set()
    for step, top, left, bottom, right in boxes:
        for row in range(max(0, int(top * GRID[1]) - 1), min(GRID[1], int(bottom * GRID[1]) + 2)):
            for column in range(max(0, int(left * GRID[2]) - 1), min(GRID[2], int(right * GRID[2]) + 2)):
                tokens.add(int((step * GRID[1] + row) * GRID[2] + column))
    return tokens


def test_hint_shows_the_number_of_merged_tokens(page: Browser, folder: Path) -> None:
    (result,) = [one for one in read_results(folder) if (one["compressor"], one["budget"]) == ("pool", 0.1)]
    page.choose("#question-budget", 1)
    compare(page, "pool")
    ask(page, 0)
    kept = result["kept"][0]
    page.middle("#frames-A")
    for index, size in list(zip(kept["index"], kept["size"], strict=True))[:6]:
        step, token = divmod(index, GRID[1] * GRID[2])
        page.point(*on_canvas(page, MIDDLE, "A", step, *divmod(token, GRID[2]), GRID[1], GRID[2]))
        first, second, *_ = page.js(TIP).splitlines()
        inside = sum(other // 16 == step for other in kept["index"])
        assert first.startswith(f"frame {step} at {step / 2:g} s")
        merged = f" of {size} originals" if size > 1 else ""
        assert second == f"A: {inside} of 16 tokens kept; here a kept token{merged}"


def test_questions_are_filtered_by_outcome_and_type(page: Browser, folder: Path, data: dict[str, Any]) -> None:
    sides = [page.js(f"document.querySelector('#side-{side}').selectedOptions[0].textContent") for side in "AB"]
    assert sides == ["fila, seed 0", "st_simdiff"], "the best method and the baseline"
    results = [one for one in read_results(folder) if one["budget"] == budget_of(page) and one["seed"] == 0]
    correct = {one["compressor"]: one["answers"]["correct"] for one in results}
    right = [correct["fila"], correct["st_simdiff"]]
    tally = page.js("document.querySelector('#tally').textContent")
    only = [sum(x and not y for x, y in zip(*pair, strict=True)) for pair in (right, right[::-1])]
    assert f"only A {only[0]}, only B {only[1]}," in tally and f"Of all {len(right[0])} questions" in tally
    page.choose("#question-outcome", "10")
    questions = data["detail"]["questions"]
    wanted = [i for i, one in enumerate(questions) if right[0][one["number"]] and not right[1][one["number"]]]
    listed = "[...document.querySelectorAll('#questions input')].map(one => Number(one.value))"
    assert page.js(listed) == wanted and wanted
    kind = questions[wanted[0]]["type"]
    page.choose("#question-type", kind)
    assert page.js(listed) == [i for i in wanted if questions[i]["type"] == kind]


def test_questions_and_frames_are_reached_by_keyboard(page: Browser) -> None:
    page.js("document.querySelector('#questions input:checked').focus()")
    chosen = "Number(document.querySelector('#questions input:checked').value)"
    before = page.js(chosen)
    page.press("ArrowDown")
    assert page.js(chosen) == before + 1
    wait_for_panels(page)
    page.js("document.querySelector('#frames-B').focus()")
    page.press("ArrowRight", times=3)
    assert page.js(TIP).splitlines()[0].startswith("frame 2 at 1 s")
    assert page.js("document.querySelector('#live').textContent").startswith("frame 2 at 1 s")


def test_results_of_a_real_ablation_are_shown(browser: Browser, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "results_v3" / "cells", tmp_path / "cells")
    results = {result["compressor"]: result for result in read_results(tmp_path)}
    browser.open(write_page(ResultTable(list(results.values())), tmp_path))
    wait_for_panels(browser)
    assert browser.errors == []
    questions = browser.js("[...document.querySelectorAll('#questions input')].map(one => Number(one.value))")
    assert len(questions) == results["uniform"]["answers"]["video"].count(0), "those of the first video"
    data = json.loads(browser.js("document.getElementById('data').textContent"))
    covered = around(data["detail"]["questions"][1]["boxes"])
    for method in ("uniform", "pool", "oracle"):
        compare(browser, method)
        ask(browser, questions[1])
        kept = results[method]["kept"][1 if method == "oracle" else 0]
        visible = visible_tokens(browser, "A", *kept["grid"][1:])
        assert visible - covered == set(kept["index"]) - covered and len(covered) < 128, method
        assert ("shaded" in text_of(browser, "facts-A")) == (method == "pool"), method
