"""The ablation on the embedded host, in miniature: equal tokens, paired questions, nothing done twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import framefold
from framefold.adapters.ops import budget_tokens
from framefold.training.ablate import ablate
from framefold.training.heldout import KeepEvidence
from framefold.training.results import FOLDER, read_cells

HOST = Path(__file__).resolve().parent.parent / "checkpoints" / "tinyhost"
SMALL = {"host": str(HOST), "videos": 4, "frames": 16, "budgets": [0.25, 40]}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fila adapter that has not been trained."""
    folder = tmp_path_factory.mktemp("adapter")
    fila = framefold.build("fila", 0.1, members="cluster")
    fila(framefold.VideoTokens.from_grid(torch.randn(4, 4, 4, 128)))
    fila.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    out = tmp_path_factory.mktemp("results")
    ablate(str(out), adapters=[str(adapter)], **SMALL)
    return out


def by_row(results: Path) -> dict[tuple[str, float], dict]:
    return {(cell["compressor"], cell["budget"]): cell for cell in read_cells(results)}


def test_every_registered_compressor_is_there_at_exactly_equal_tokens(results: Path) -> None:
    cells = by_row(results)
    for name in framefold.list_compressors():
        cls = type(framefold.build(name))
        if cls.query_aware or cls.needs_attention or (cls.trainable and name != "fila"):
            continue
        budgets = SMALL["budgets"] if cls.exact_budget else [1.0]
        for budget in budgets:
            cell = cells[name, budget]
            kept = budget_tokens(budget, 16 * 16)
            assert set(cell["answers"]["tokens"]) == {kept}
            assert cell["tokens_entered"] == kept + 1, "the newline of the host and nothing else comes on top"
            assert {"compressor", "budget", "seed", "host", "tokens", "n", "accuracy", "accuracy_by_type"} <= set(cell)
    assert ("oracle", 0.25) in cells


def test_all_rows_answered_the_same_questions(results: Path) -> None:
    asked = {json.dumps([c["answers"]["video"], c["answers"]["type"]]) for c in read_cells(results)}
    assert len(asked) == 1


def test_an_untrained_adapter_answers_as_its_counterpart_with_its_parameters(results: Path) -> None:
    cells = by_row(results)
    for budget in SMALL["budgets"]:
        twin = cells["scene_mean", budget]
        assert twin["settings"]["params"]["members"] == "cluster"
        assert cells["fila", budget]["answers"] == twin["answers"]


def test_finished_cells_are_not_run_again(results: Path, adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in (results / FOLDER).iterdir()}
    gone = results / FOLDER / "uniform-b0.25-s0.json"
    old = json.loads(gone.read_text())["answers"]
    gone.unlink()
    ablate(str(results), adapters=[str(adapter)], batch_size=3, **SMALL)
    after = {file: file.stat().st_mtime_ns for file in (results / FOLDER).iterdir()}
    assert [file for file in before if before[file] != after[file]] == [gone]
    assert json.loads(gone.read_text())["answers"] == old, "another batch size changed an answer"
    assert f"{len(before)} cells, {len(before) - 1} already there" in capsys.readouterr().out


def test_the_oracle_keeps_the_evidence_and_fills_up_evenly() -> None:
    video = framefold.VideoTokens.from_grid(torch.randn(5, 2, 2, 3))
    some, all_of_it = np.zeros(20, bool), np.ones(20, bool)
    some[[3, 8]] = True
    oracle = KeepEvidence([some, all_of_it], lambda n: 6)
    first, second = oracle(video).tokens, oracle(video).tokens
    assert len(first) == len(second) == 6
    assert {3, 8} <= set(first.index.tolist())
    assert first.index.tolist() == sorted(first.index.tolist())
