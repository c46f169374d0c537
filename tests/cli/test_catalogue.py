"""``framefold catalogue``: the page about compressors from the registry and the committed results."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from framefold.__main__ import main
from framefold.adapters import Compressor, build, list_compressors
from framefold.adapters.core.registry import _CLASSES
from framefold.cli.catalogue import ACCURACIES, BEGIN, END, PAGE, SIZES, TIMES, catalogue, tables
from framefold.evaluation.bench.compressors import bench_compress
from framefold.evaluation.bench.sizes import bench_size, saved_flops
from framefold.evaluation.committed.committed import CommittedResults, read_committed
from tests.support.pages.simple_results import SETTINGS, simple_answers, write_simple_result
from tests.support.paths import ROOT

SMALL = {"frames": [4], "grid": (3, 2), "width": 8, "repeats": 1, "budgets": [0.1], "inputs": ["noise", "one"]}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / PAGE).write_text(f"before\n\n{BEGIN}\nformer rows\n{END}\n\nafter\n")
    return folder


def row_of(page: str, name: str) -> list[str]:
    (line,) = [line for line in page.partition("## What was measured")[2].splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_compressor_has_its_rows_and_says_what_it_is() -> None:
    text = tables(*(read_committed(ROOT / "docs" / name) for name in (ACCURACIES, TIMES, SIZES)))
    described, _, measured = text.partition("## What was measured")
    for name in list_compressors():
        assert f"\n| `{name}` | t" in described, f"{name}: no row, or neither training-free nor trained"
        assert name == "identity" or f"\n| `{name}` |" in measured, name
        assert _CLASSES[name].keeps and _CLASSES[name].cost, f"{name} must say what it keeps and what it costs"


def test_page_is_what_the_command_writes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs" / "measured", tmp_path / "measured")
    committed = Path(shutil.copy(ROOT / "docs" / PAGE, tmp_path)).read_text()
    catalogue(docs=str(tmp_path))
    assert (tmp_path / PAGE).read_text() == committed, "run 'framefold catalogue' and commit docs/compressors.md"


def test_committed_accuracies_are_those_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text()
    known = read_committed(ROOT / "docs" / ACCURACIES)
    for name in ("fila", "st_simdiff", "uniform", "oracle"):
        line = next(line for line in results.splitlines() if line.startswith(f"| {name} | "))  # of the first table
        found = known.accuracy(name, 0.1)
        assert found is not None and f" {100 * found.value:.1f} [{100 * found.low:.1f}, " in line, name


def test_committed_sizes_are_those_of_the_classes() -> None:
    known = read_committed(ROOT / "docs" / SIZES)
    width, grid = known.setting["width"], known.setting["grid"]
    measured = set()
    for name, row in known.values.items():
        compressor = build(row["compressor"], **row["params"])
        with torch.device("meta"):
            compressor.materialize(width, tuple(grid))
        assert sum(p.numel() for p in compressor.parameters()) == row["parameters"], name
        assert row["saved_flops"] == saved_flops(known.setting["frames"] * grid[0] * grid[1], 1254)
        measured.add(row["compressor"])
    assert measured == {name for name in list_compressors(trainable=True) if build(name).in_llm is None}


def test_sizes_are_collected_and_expensive_ones_are_marked(
    docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"frames": 8, "grid": (3, 3), "width": 32}
    bench_size(["xpool"], {"xpool": {"spatial": 2}}, **small, out=str(tmp_path / "size"))  # type: ignore[arg-type]
    words = ["catalogue", "--docs", str(docs), "--size"]
    assert main([*words, str(tmp_path / "size")]) == 0
    (line,) = [one for one in (docs / PAGE).read_text().splitlines() if one.startswith("| `xpool, spatial=2` ")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:3] == ["`pool`", f"{2 * 64 * 32 + 32 * 64 + 64:,}"] and cells[5].endswith(" %")
    committed = json.loads((docs / SIZES).read_text())
    row = committed["values"]["xpool, spatial=2"]
    row["saved_flops"] = 19 * row["flops"]  # a share of 1 / 19, above 5 %
    (docs / SIZES).write_text(json.dumps(committed))
    catalogue(docs=str(docs))
    assert "| 5.26 % ! |" in (docs / PAGE).read_text()
    bench_size(["xpool"], **small | {"width": 16}, out=str(tmp_path / "size"))  # type: ignore[arg-type]
    capsys.readouterr()
    assert main([*words, str(tmp_path / "size")]) == 2 and main([*words, str(tmp_path)]) == 2
    setting, missing = capsys.readouterr().err.splitlines()
    assert "width 32" in setting and "missing" in missing


def test_text_around_the_tables_stays(docs: Path) -> None:
    catalogue(docs=str(docs))
    text = (docs / PAGE).read_text()
    assert text.startswith(f"before\n\n{BEGIN}\n\n| name |") and text.endswith(f"{END}\n\nafter\n")
    assert "former rows" not in text
    catalogue(docs=str(docs))
    assert (docs / PAGE).read_text() == text


def test_results_are_collected_compressor_by_compressor(
    docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_simple_result(tmp_path / "one", replace(SETTINGS, compressor="uniform"), simple_answers(0.4, 102))
    write_simple_result(tmp_path / "one", replace(SETTINGS, compressor="random"), simple_answers(0.4, 102))
    write_simple_result(
        tmp_path / "one", replace(SETTINGS, compressor="identity", budget=1.0), simple_answers(0.9, 999)
    )
    write_simple_result(tmp_path / "two", replace(SETTINGS, compressor="random"), simple_answers(1.0, 102))
    bench_compress(["uniform"], **SMALL, out=str(tmp_path / "bench"))  # type: ignore[arg-type]
    words = ["--docs", str(docs)]
    assert main(["catalogue", "--ablation", str(tmp_path / "one"), "--bench", str(tmp_path / "bench"), *words]) == 0
    page = (docs / PAGE).read_text()
    assert row_of(page, "`random`")[1:4] == [row_of(page, "`uniform`")[1], "", ""]
    assert "80 questions about 40 held-out videos" in page and "4 frames of 3 x 2 tokens of width 8" in page
    rows = json.loads((tmp_path / "bench" / "bench.json").read_text())["rows"]
    slowest = max(row["yardsticks"] for row in rows if row["compressor"] == "uniform")
    assert row_of(page, "`uniform`")[3] == f"{slowest:.1f}" and row_of(page, "all tokens")[1] > "80"
    assert main(["catalogue", "--ablation", str(tmp_path / "two"), *words]) == 0
    renewed = (docs / PAGE).read_text()
    assert row_of(renewed, "`random`")[1].startswith("100.0 [")
    assert row_of(renewed, "`uniform`") == row_of(page, "`uniform`")
    assert renewed.index("`random` | 100.0") < renewed.index(f"`uniform` | {row_of(page, '`uniform`')[1]}")

    write_simple_result(tmp_path / "three", replace(SETTINGS, host_weights="other"), simple_answers(0.4, 102))
    bench_compress(["uniform"], **SMALL | {"width": 4}, out=str(tmp_path / "bench"))  # type: ignore[arg-type]
    capsys.readouterr()
    assert main(["catalogue", "--ablation", str(tmp_path / "three"), *words]) == 2
    assert main(["catalogue", "--bench", str(tmp_path / "bench"), *words]) == 2
    assert main(["catalogue", "--bench", str(tmp_path / "nowhere"), *words]) == 2
    accuracy, time, missing = capsys.readouterr().err.splitlines()
    assert "host_weights 'abc'" in accuracy and "'other'" in accuracy and "width 8" in time and "missing" in missing
    assert (docs / PAGE).read_text() == renewed


def test_page_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalogue", "--docs", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "compressors.md must have a line" in line


def test_plugins_are_not_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefold.adapters.core.registry._CLASSES", dict(_CLASSES))
    type("Mine", (Compressor,), {"name": "mine", "keeps": "mine"})
    text = tables(CommittedResults(), CommittedResults(), CommittedResults())
    assert "`mine`" not in text and "`uniform`" in text
