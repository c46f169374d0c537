"""A report is derived from results files alone, and says when they are missing or damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framefold.training.report import report
from framefold.training.results import FOLDER, ResultsError, Settings, answers_of, read_cell, read_cells, write_cell

SETTINGS = Settings("uniform", {}, None, 0.1, 0, "host", "abc", 40, 64, 0, "test", [])
COST = {"compressor_ms": 1.0, "llm_ms": 2.0, "tokens_entered": 11.0}


def rows(accuracy: float, tokens: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    types = ("needle", "count")
    return [
        {"video": v, "type": kind, "correct": bool(rng.random() < accuracy), "tokens": tokens}
        for v in range(40)
        for kind in types
    ]


def fill(out: Path) -> None:
    write_cell(out, replace(SETTINGS, compressor="identity", budget=1.0), rows(0.95, 1024), COST)
    for budget, tokens in ((0.1, 102), (0.05, 51)):
        for name, accuracy in (
            ("uniform", 0.4),
            ("random", 0.4),
            ("st_simdiff", 0.9),
            ("scene_mean", 0.3),
            ("fila", 0.8),
        ):
            write_cell(out, replace(SETTINGS, compressor=name, budget=budget), rows(accuracy, tokens), COST)


def test_the_table_and_the_plot_come_from_the_files(tmp_path: Path) -> None:
    fill(tmp_path)
    text = report(str(tmp_path)).read_text()
    for name in ("uniform", "random", "st_simdiff", "scene_mean", "fila", "all tokens"):
        assert f"| {name} |" in text
    assert "| st_simdiff - uniform |" in text and "| fila - scene_mean |" in text
    cells = [c for c in read_cells(tmp_path) if c["compressor"] == "fila" and c["budget"] == 0.05]
    assert f"{100 * answers_of(cells).macro:.1f} [" in text
    assert "10 % (102 tokens)" in text
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_is_reused_only_for_the_same_settings(tmp_path: Path) -> None:
    write_cell(tmp_path, SETTINGS, rows(0.5, 10), COST)
    assert read_cell(tmp_path, SETTINGS) is not None
    assert read_cell(tmp_path, replace(SETTINGS, host_weights="other")) is None
    (tmp_path / FOLDER / SETTINGS.file).write_text("{")
    assert read_cell(tmp_path, SETTINGS) is None


def test_seeds_of_a_row_are_counted_together(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path, replace(SETTINGS, seed=seed), rows(0.5, 10, seed), COST)
    together = answers_of(read_cells(tmp_path))
    assert together.asked.sum() == 160


def test_missing_and_damaged_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="framefold ablate"):
        report(str(tmp_path))
    fill(tmp_path)
    (tmp_path / FOLDER / "zz.json").write_text("{")
    with pytest.raises(ResultsError, match="zz.json"):
        report(str(tmp_path))
