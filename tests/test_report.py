"""A report is derived from results files alone, and says when they are missing or damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framefold.training.report import report
from framefold.training.results import FOLDER, ResultsError, Settings, answers_of, read_cell, read_cells, write_cell

SETTINGS = Settings("uniform", {}, None, 0.1, 0, "host", "abc", 40, 64, 0, "test", [], {})
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
    assert "| fila - st_simdiff |" in text
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


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"videos": 41}, "videos"),
        ({"data_seed": 1}, "data_seed"),
        ({"host_weights": "x"}, "host_weights"),
        ({"exclude": ["count"]}, "exclude"),
        ({"adapter": "other"}, "adapter"),
        ({"params": {"r": 2}}, "params"),
    ],
)
def test_cells_of_different_settings_are_not_put_into_one_table(tmp_path: Path, changes: dict, text: str) -> None:
    write_cell(tmp_path, SETTINGS, rows(0.5, 10), COST)
    write_cell(tmp_path, replace(SETTINGS, budget=0.2, **changes), rows(0.5, 20), COST)
    with pytest.raises(ResultsError, match=f"uniform-b0.1-s0.json and uniform-b0.2-s0.json differ in {text}"):
        report(str(tmp_path))
    assert not (tmp_path / "report.md").exists()


def test_a_method_with_several_seeds_is_paired_with_one_that_has_one(tmp_path: Path) -> None:
    write_cell(tmp_path, replace(SETTINGS, compressor="st_simdiff"), rows(0.9, 10), COST)
    for seed in (0, 1):
        write_cell(tmp_path, replace(SETTINGS, compressor="random", seed=seed), rows(0.3, 10, seed + 1), COST)
    assert "| st_simdiff - random | +" in report(str(tmp_path)).read_text()


def test_columns_are_ordered_by_tokens_and_one_token_is_not_all_of_them(tmp_path: Path) -> None:
    for budget, tokens in ((1, 1), (1.0, 1024), (40, 40), (0.5, 512), (0.1, 102), (0.10000001, 102)):
        write_cell(tmp_path, replace(SETTINGS, budget=budget), rows(0.5, tokens), COST)
    head = report(str(tmp_path)).read_text().split("| compressor |")[1].splitlines()[0]
    assert head.startswith(" 100 % (1024 tokens) | 50 % (512 tokens) | ")
    assert head.endswith(" | 40 tokens (40 tokens) | 1 tokens (1 tokens) |") and "10.000001 %" in head


@pytest.mark.parametrize("compressor", ["identity", "uniform", "oracle"])
def test_a_single_cell_is_a_report(tmp_path: Path, compressor: str) -> None:
    write_cell(tmp_path, replace(SETTINGS, compressor=compressor), rows(0.5, 10), COST)
    name = "all tokens" if compressor == "identity" else compressor
    assert f"| {name} | {100 * answers_of(read_cells(tmp_path)).macro:.1f} " in report(str(tmp_path)).read_text()


@pytest.mark.parametrize("text", ["[]", "3", '{"schema": 1}', '{"schema": 1, "settings": {}}', '{"schema": 2}'])
def test_a_cell_of_another_shape_is_named_and_redone(tmp_path: Path, text: str) -> None:
    write_cell(tmp_path, SETTINGS, rows(0.5, 10), COST)
    (tmp_path / FOLDER / SETTINGS.file).write_text(text)
    with pytest.raises(ResultsError, match=SETTINGS.file):
        report(str(tmp_path))
    assert read_cell(tmp_path, SETTINGS) is None


def test_the_best_row_stands_first_and_the_oracle_above_it(tmp_path: Path) -> None:
    for name, accuracy in (("pool", 0.2), ("oracle", 0.5), ("uniform", 0.9), ("random", 0.4)):
        for budget in (0.1, 0.05, 0.02):
            write_cell(tmp_path, replace(SETTINGS, compressor=name, budget=budget), rows(accuracy, 1000), COST)
    text = report(str(tmp_path)).read_text()
    table = text.split("| compressor |")[1].split("\n\n")[0]
    assert [line.split()[1] for line in table.splitlines()[2:]] == ["oracle", "uniform", "random", "pool"]


def test_room_to_win_is_measured_against_the_best_training_free_row_of_a_column(tmp_path: Path) -> None:
    accuracies = {"pool": (0.9, 0.1), "uniform": (0.4, 0.6), "fila": (1.0, 1.0), "oracle": (1.0, 1.0)}
    for name, pair in accuracies.items():
        for budget, accuracy in zip((0.1, 0.05), pair, strict=True):
            write_cell(
                tmp_path, replace(SETTINGS, compressor=name, budget=budget), rows(accuracy, round(1000 * budget)), COST
            )
    cells = {(c["compressor"], c["budget"]): answers_of([c]).macro for c in read_cells(tmp_path)}
    room = next(line for line in report(str(tmp_path)).read_text().splitlines() if "best training-free" in line)
    given = [float(cell.split("[")[0]) for cell in room.split("|")[2:4]]
    want = [cells["oracle", 0.1] - cells["pool", 0.1], cells["oracle", 0.05] - cells["uniform", 0.05]]
    assert given == pytest.approx([100 * x for x in want], abs=0.05)


def test_types_and_costs_are_those_of_the_smallest_budget_but_one(tmp_path: Path) -> None:
    fill(tmp_path)
    text = report(str(tmp_path)).read_text()
    assert text.count("| at 10 % |") == 2 and "| at 5 % |" not in text
