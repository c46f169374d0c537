"""A report is derived from results files alone, and says when they are missing or damaged."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from framefold.errors import ResultsError
from framefold.evaluation.metrics.significance import holm, mcnemar
from framefold.evaluation.report.report import report
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results import result_files
from framefold.evaluation.results.result_files import FOLDER, Outcome, count_answers, read_result, read_results
from framefold.evaluation.results.settings import Settings

DATA = {
    "kind": "synthetic",
    "videos": 40,
    "frames": 64,
    "seed": 0,
    "split": "test",
    "difficulty": {},
    "style": "normal",
}
SETTINGS = Settings("uniform", {}, None, 0.1, 0, "host", "abc", "float32", DATA, [])
COST: dict[str, Any] = dict.fromkeys(result_files.REQUIRED_COSTS, 2.0) | {"compressor_ms": 1.0, "tokens_entered": 11.0}
COST |= {"videos": 5, "memory_of": "tensors"}


@pytest.fixture(autouse=True)
def pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take a second; only tests with "plot" or "picture" in their names draw them."""
    if "plot" not in request.node.name and "picture" not in request.node.name:
        monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])


def rows(accuracy: float, tokens: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    types = ("needle", "count")
    return [
        {
            "video": v, "draw": v, "type": kind, "question": f"{kind} ?", "answer": "yes", "said": "no",
            "correct": bool(rng.random() < accuracy), "tokens": tokens, "recall": 0.5, "purity": 0.25,
        }
        for v in range(40)
        for kind in types
    ]  # fmt: skip


def write_cell(out: Path, settings: Settings, answers: list[dict], cost: dict[str, Any] = COST) -> dict[str, Any]:
    return result_files.write_result(out, settings, Outcome(answers, cost, [], 0, "2026-01-01T00:00:00+00:00"))


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
    cells = [c for c in read_results(tmp_path) if c["compressor"] == "fila" and c["budget"] == 0.05]
    assert f"{100 * count_answers(cells).macro:.1f} [" in text
    assert "10 % (102 tokens)" in text
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_a_cell_is_reused_only_for_the_same_settings(tmp_path: Path) -> None:
    write_cell(tmp_path, SETTINGS, rows(0.5, 10), COST)
    assert read_result(tmp_path, SETTINGS) is not None
    assert read_result(tmp_path, replace(SETTINGS, host_weights="other")) is None
    (tmp_path / FOLDER / SETTINGS.file).write_text("{")
    assert read_result(tmp_path, SETTINGS) is None


def test_seeds_of_a_row_are_counted_together(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_cell(tmp_path, replace(SETTINGS, seed=seed), rows(0.5, 10, seed), COST)
    together = count_answers(read_results(tmp_path))
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
        ({"data": {**DATA, "videos": 41}}, "videos"),
        ({"data": {**DATA, "seed": 1}}, "seed"),
        ({"data": {"kind": "shards", "videos": 40, "frames": 64, "digest": "x"}}, "kind"),
        ({"host_weights": "x"}, "host_weights"),
        ({"dtype": "bfloat16"}, "dtype"),
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
    assert f"| {name} | {100 * count_answers(read_results(tmp_path)).macro:.1f} " in report(str(tmp_path)).read_text()


@pytest.mark.parametrize(
    "text",
    ["[]", "3", '{"schema": 2}', '{"schema": 2, "settings": {}}', '{"schema": 3}', '{"schema": 3, "settings": {}}'],
)
def test_a_cell_of_another_shape_is_named_and_redone(tmp_path: Path, text: str) -> None:
    write_cell(tmp_path, SETTINGS, rows(0.5, 10), COST)
    (tmp_path / FOLDER / SETTINGS.file).write_text(text)
    with pytest.raises(ResultsError, match=SETTINGS.file):
        report(str(tmp_path))
    assert read_result(tmp_path, SETTINGS) is None


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
    cells = {(c["compressor"], c["budget"]): count_answers([c]).macro for c in read_results(tmp_path)}
    room = next(
        line for line in report(str(tmp_path)).read_text().splitlines() if "oracle - best training-free" in line
    )
    given = [float(cell.split("[")[0]) for cell in room.split("|")[2:4]]
    want = [cells["oracle", 0.1] - cells["pool", 0.1], cells["oracle", 0.05] - cells["uniform", 0.05]]
    assert given == pytest.approx([100 * x for x in want], abs=0.05)


def test_types_costs_and_their_pictures_are_there_at_every_budget(tmp_path: Path) -> None:
    fill(tmp_path)
    text = report(str(tmp_path)).read_text()
    assert text.count("| at 10 % |") == 2 and text.count("| at 5 % |") == 2
    assert text.count("<details>") == text.count("</details>")
    for name in ("accuracy.png", "types.png", "time.png"):
        assert f"({name})" in text and (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_every_row_is_compared_with_the_named_baseline_and_the_family_is_corrected(tmp_path: Path) -> None:
    fill(tmp_path)
    usual, named = report(str(tmp_path)).read_text(), report(str(tmp_path), "random").read_text()
    assert "## Compared with st_simdiff" in usual and "## Compared with random" in named
    assert "for the 8 tests of this table" in usual, "four other rows at two budgets"
    table = ResultTable(read_results(tmp_path), "random")
    found = table.comparisons([None], table.budgets)
    assert [round(one.mcnemar_holm, 9) for one in found.values()] == [
        round(p, 9) for p in holm([one.mcnemar for one in found.values()])
    ]
    one = found["st_simdiff", "5 %", None]
    a, b = (np.array(cell["answers"]["correct"]) for cell in cells_at(tmp_path, "st_simdiff", "random", budget=0.05))
    assert (one.better, one.worse) == (int((a & ~b).sum()), int((~a & b).sum()))
    assert one.mcnemar == mcnemar(one.better, one.worse) and one.flip_holm >= one.flip
    assert one.difference.value == pytest.approx(a.mean() - b.mean()) and one.flip_holm < 0.01
    line = next(line for line in named.splitlines() if line.startswith("| st_simdiff | +"))
    assert line.count("\\*\\*\\*") == 2, line
    with pytest.raises(ResultsError, match="did you mean 'random'"):
        report(str(tmp_path), "randm")


def cells_at(out: Path, *names: str, budget: float) -> list[dict]:
    cells = {cell["compressor"]: cell for cell in read_results(out) if cell["budget"] == budget}
    return [cells[name] for name in names]


def test_types_are_compared_in_a_family_of_their_own(tmp_path: Path) -> None:
    fill(tmp_path)
    table = ResultTable(read_results(tmp_path))
    found = table.comparisons(["needle", "count"], ["5 %"])
    assert len(found) == 4 * 2
    a, b = cells_at(tmp_path, "fila", "st_simdiff", budget=0.05)
    kinds = np.array(a["answers"]["type"]) == "needle"
    gap = np.mean(a["answers"]["correct"], where=kinds) - np.mean(b["answers"]["correct"], where=kinds)
    assert found["fila", "5 %", "needle"].difference.value == pytest.approx(gap)


def test_a_reader_of_the_first_lines_knows_what_to_use_and_what_training_was_worth(tmp_path: Path) -> None:
    for name, accuracy in (("identity", 0.95), ("st_simdiff", 0.5), ("fila", 0.9), ("uniform", 0.1)):
        write_cell(tmp_path, replace(SETTINGS, compressor=name), rows(accuracy, 102, seed=len(name)))
    short = report(str(tmp_path)).read_text().split("## In short")[1].split("## Accuracy")[0]
    assert "`fila` (trained: " in short and "is the most accurate method; all tokens reach" in short
    assert (
        "The most accurate training-free method is `st_simdiff`" in short
        and "Training helped: `fila` - `st_simdiff`" in short
    )
    write_cell(tmp_path, replace(SETTINGS, compressor="st_simdiff"), rows(0.9, 102, seed=4))
    short = report(str(tmp_path)).read_text().split("## In short")[1]
    assert "It is not certain that training helped" in short and "Not significantly worse (p >= 0.05): " in short
    write_cell(tmp_path, replace(SETTINGS, compressor="fila"), rows(0.4, 102, seed=4))
    assert "Training did not help: `fila` - `st_simdiff`" in report(str(tmp_path)).read_text()


def test_cells_about_other_questions_stand_in_no_table(tmp_path: Path) -> None:
    write_cell(tmp_path, SETTINGS, rows(0.5, 10))
    other = [{**row, "question": "why ?"} for row in rows(0.5, 10)]
    write_cell(tmp_path, replace(SETTINGS, budget=0.2), other)
    with pytest.raises(ResultsError, match="different questions"):
        report(str(tmp_path))


def test_a_cell_is_found_again_where_host_and_shards_lie_elsewhere(tmp_path: Path) -> None:
    shards = {"kind": "shards", "shards": "here", "digest": "abc", "videos": 3, "frames": 8}
    write_cell(tmp_path, replace(SETTINGS, data=shards), rows(0.5, 10))
    moved = replace(SETTINGS, host="/elsewhere/host", data={**shards, "shards": "there"})
    assert read_result(tmp_path, moved) is not None
    assert read_result(tmp_path, replace(moved, data={**shards, "digest": "abd"})) is None
    assert read_result(tmp_path, moved, kept_videos=1) is None, "it does not show what was kept of a video"


def test_a_cell_says_where_it_comes_from(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, SETTINGS, rows(0.5, 10))
    assert cell["machine"]["processor"] and cell["machine"]["memory_gib"] > 0 and cell["machine"]["gpu"] is None
    assert {"framefold", "torch", "transformers", "numpy", "python"} <= set(cell["versions"])
    assert "processor" in report(str(tmp_path)).read_text()
    stored = json.loads((tmp_path / FOLDER / SETTINGS.file).read_text())
    assert stored == json.loads(json.dumps(cell)) and stored["evidence_recall"] == 0.5


def test_without_annotated_evidence_there_is_no_table_of_it(tmp_path: Path) -> None:
    bare = [{**row, "recall": None, "purity": None} for row in rows(0.5, 10)]
    cell = write_cell(tmp_path, SETTINGS, bare)
    assert cell["evidence_recall"] is None and "## Evidence" not in report(str(tmp_path)).read_text()


def test_a_report_of_shards_names_them_and_counts_videos_not_twins(tmp_path: Path) -> None:
    shards = {"kind": "shards", "shards": "runs/clips", "digest": "abc", "videos": 42, "frames": 8}
    outcome = Outcome(rows(0.5, 10), COST, [], 0, "2026-01-01T00:00:00+00:00", damaged=2)
    result_files.write_result(tmp_path, replace(SETTINGS, data=shards), outcome)
    text = report(str(tmp_path)).read_text()
    assert "80 questions about 40 videos of `runs/clips` (2 more were damaged)" in text
    assert "bootstrap interval over videos" in text and "twins" not in text
