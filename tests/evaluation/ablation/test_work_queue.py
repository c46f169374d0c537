"""Ablations that are killed or shared end with the same results as one that runs undisturbed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from framefold.evaluation.results.result_files import FOLDER, read_results
from tests.support.paths import TINYHOST as HOST
from tests.support.ranks.fork_server import ForkServer, Run

METHODS = ["uniform", "random"]  # the queue cannot see which compressors it runs
WORDS = ["ablate", "--host", str(HOST), "--videos", "4", "--frames", "16", "--budgets", "0.25", "40", "--drill", "1"]
WORDS += ["--seeds", "0", "1", "--oracle", "true"]
KILLS = 5


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServer]:
    server = ForkServer("framefold.evaluation.ablation.run")
    yield server
    server.close()


def words(out: Path, *more: str, methods: list[str] = METHODS) -> list[str]:
    return [*WORDS, "--out", str(out), "--compressors", *methods, *more]


@pytest.fixture(scope="module")
def undisturbed(processes: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run = processes.run(words(out), out / "log", world=1)
    assert run.statuses == [0], run.text()
    return out


def answers(out: Path) -> dict[str, Any]:
    """All results by method, budget and seed, without times."""
    timeless = {"cost", "started", "finished"}
    results = {f"{result['compressor']} {result['budget']} {result['seed']}": result for result in read_results(out)}
    return {name: {key: result[key] for key in result.keys() - timeless} for name, result in results.items()}


def tables(out: Path) -> str:
    """The part of the report without times; the summary above it contains some."""
    text = (out / "report.md").read_text()
    return text[text.index("## Accuracy") : text.index("## Cost")]


def written(out: Path) -> int:
    return len(list((out / FOLDER).glob("*.json")))


def wait_for(out: Path, results: int, run: Run) -> None:
    """Wait until a number of results exists."""
    end = time.monotonic() + 120
    while written(out) < results:
        assert time.monotonic() < end, run.text()
        time.sleep(0.002)


def test_five_kills_at_random_moments_change_nothing(processes: ForkServer, undisturbed: Path, tmp_path: Path) -> None:
    out, rng, total = tmp_path / "killed", random.Random(7), written(undisturbed)
    moments = [0, *sorted(rng.sample(range(1, total - 1), KILLS - 1))]  # results that exist at each kill
    for number, results in enumerate(moments):
        run = processes.start(words(out), tmp_path / f"log{number}", world=1)
        wait_for(out, results, run)
        time.sleep(rng.random() * 0.15)  # in the middle of the next result
        run.kill(0)
        assert processes.wait(run) == [-9], run.text()
        assert written(out) < total, "it was killed too late to test anything"
    last = processes.run(words(out), tmp_path / "last", world=1)
    assert last.statuses == [0], last.text()
    assert answers(out) == answers(undisturbed)
    assert tables(out) == tables(undisturbed)
    assert not [file for file in (out / FOLDER).iterdir() if file.suffix != ".json" or file.name.startswith(".")]


def test_one_of_two_processes_may_die_and_order_and_batch_size_change_nothing(
    processes: ForkServer, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shared"
    first = processes.start(words(out), tmp_path / "log0", world=1)
    other = words(out, "--batch_size", "3", methods=METHODS[::-1])
    second = processes.start(other, tmp_path / "log1", world=1)
    wait_for(out, 3, first)
    first.kill(0)
    assert [processes.wait(run) for run in (first, second)] == [[-9], [0]], second.text()
    assert answers(out) == answers(undisturbed)
    assert tables(out) == tables(undisturbed)
