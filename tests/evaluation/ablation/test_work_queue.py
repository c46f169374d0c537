"""Ablations that are killed, shared and repeated end with the numbers of one that nothing happened to."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framefold.evaluation.results.cells import FOLDER, read_cells
from tests.support.paths import TINYHOST as HOST
from tests.support.ranks.fork_server import Ranks, Run

ROWS = ["st_simdiff", "uniform", "random", "sttm"]
WORDS = ["ablate", "--host", str(HOST), "--videos", "4", "--frames", "16", "--budgets", "0.25", "40", "--drill", "1"]
WORDS += ["--seeds", "0", "1", "--oracle", "true"]
KILLS = 5


@pytest.fixture(scope="module")
def processes() -> Iterator[Ranks]:
    server = Ranks("framefold.evaluation.ablation.run")
    yield server
    server.close()


def words(out: Path, *more: str, rows: list[str] = ROWS) -> list[str]:
    return [*WORDS, "--out", str(out), "--compressors", *rows, *more]


@pytest.fixture(scope="module")
def undisturbed(processes: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run = processes.run(words(out), out / "log", world=1)
    assert run.statuses == [0], run.text()
    return out


def answers(out: Path) -> dict[str, Any]:
    """All that was asked and answered, by row, budget and seed; not what it took."""
    timeless = {"cost", "started", "finished"}
    cells = {f"{cell['compressor']} {cell['budget']} {cell['seed']}": cell for cell in read_cells(out)}
    return {name: {key: cell[key] for key in cell.keys() - timeless} for name, cell in cells.items()}


def tables(out: Path) -> str:
    """The report up to what was measured with a clock; what is said in short has such numbers in brackets."""
    text = (out / "report.md").read_text()
    return text[text.index("## Accuracy") : text.index("## Cost")]


def written(out: Path) -> int:
    return len(list((out / FOLDER).glob("*.json")))


def wait_for(out: Path, cells: int, run: Run, processes: Ranks) -> None:
    """Until so many cells are there."""
    end = time.monotonic() + 60
    while written(out) < cells:
        assert time.monotonic() < end, run.text()
        time.sleep(0.002)


def test_five_kills_at_random_moments_leave_no_trace(processes: Ranks, undisturbed: Path, tmp_path: Path) -> None:
    out, dice, total = tmp_path / "killed", random.Random(7), written(undisturbed)
    moments = [0, *sorted(dice.sample(range(1, total - 1), KILLS - 1))]  # cells that are there when it is killed
    for number, cells in enumerate(moments):
        run = processes.start(words(out), tmp_path / f"log{number}", world=1)
        wait_for(out, cells, run, processes)
        time.sleep(dice.random() * 0.15)  # in the middle of the next
        run.kill(0)
        assert processes.wait(run) == [-9], run.text()
        assert written(out) < total, "it was killed too late to tell anything"
    last = processes.run(words(out), tmp_path / "last", world=1)
    assert last.statuses == [0], last.text()
    assert answers(out) == answers(undisturbed)
    assert tables(out) == tables(undisturbed)
    assert not [file for file in (out / FOLDER).iterdir() if file.suffix != ".json" or file.name.startswith(".")]


def test_of_two_that_share_the_work_one_may_die(processes: Ranks, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "shared"
    runs = [processes.start(words(out), tmp_path / f"log{number}", world=1) for number in range(2)]
    wait_for(out, 3, runs[0], processes)
    runs[0].kill(0)
    assert [processes.wait(run) for run in runs] == [[-9], [0]], runs[1].text()
    assert answers(out) == answers(undisturbed)
    assert tables(out) == tables(undisturbed)


def test_neither_the_order_of_rows_nor_the_size_of_batches_changes_an_answer(
    processes: Ranks, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "other"
    run = processes.run(words(out, "--batch_size", "3", rows=ROWS[::-1]), tmp_path / "log", world=1)
    assert run.statuses == [0], run.text()
    expected, found = answers(undisturbed), answers(out)
    assert expected.keys() == found.keys() and len(found) >= len(ROWS) * 2
    for name, cell in expected.items():
        assert cell["answers"] == found[name]["answers"] and cell["accuracy"] == found[name]["accuracy"], name
    assert tables(out) == tables(undisturbed)
