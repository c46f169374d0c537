"""Ablations that are killed or shared end with the same results as one that runs undisturbed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from framefold.__main__ import main
from framefold.evaluation.ablation import runner
from framefold.evaluation.results.result_files import FOLDER, read_results
from tests.support.forked_command import ForkedCommand
from tests.support.limits import HANG
from tests.support.paths import TINYHOST as HOST

METHODS = ["uniform", "random"]  # the queue cannot see which compressors it runs
WORDS = ["ablate", "--host", str(HOST), "--videos", "4", "--frames", "16", "--budgets", "0.25", "40", "--drill", "1"]
WORDS += ["--seeds", "0", "1", "--oracle", "true"]
KILLS = 5


@pytest.fixture(autouse=True, scope="module")
def no_plots() -> Iterator[None]:
    """Plots take a second per report and are tested in test_report.py; forked commands inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
        yield


def words(out: Path, *more: str, methods: list[str] = METHODS) -> list[str]:
    return [*WORDS, "--out", str(out), "--compressors", *methods, *more]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert main(words(out)) == 0
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


def hold_next_result(out: Path, results: int, place: str, held: Path) -> None:
    """Let this process stop where a result has been computed, written or renamed, once a number of results exist."""
    write, rename = runner.write_result, os.replace

    def hold(*_: Any) -> None:
        held.touch()
        time.sleep(HANG)

    def write_or_hold(*result: Any) -> Any:
        if written(out) < results:
            return write(*result)
        if place == "computed":
            hold()
        os.replace = hold if place == "written" else rename  # type: ignore[assignment]
        write(*result)
        return hold()

    runner.write_result = write_or_hold  # type: ignore[assignment]


def test_five_kills_at_random_moments_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    out, rng, total = tmp_path / "killed", random.Random(7), written(undisturbed)
    moments = [0, *sorted(rng.sample(range(1, total - 1), KILLS - 1))]  # results that exist at each kill
    for number, results in enumerate(moments):
        place, held = rng.choice(("computed", "written", "renamed")), tmp_path / f"held{number}"
        hold = partial(hold_next_result, out, results, place, held)
        command = ForkedCommand(words(out), tmp_path / f"log{number}", hold)
        command.wait_until(held.exists)
        command.send(signal.SIGKILL)
        assert command.wait() == -signal.SIGKILL, command.log.read_text()
        assert written(out) < total, "it was killed too late to test anything"
    last = ForkedCommand(words(out), tmp_path / "last")
    assert last.wait() == 0, last.log.read_text()
    assert answers(out) == answers(undisturbed)
    assert tables(out) == tables(undisturbed)
    assert not [file for file in (out / FOLDER).iterdir() if file.suffix != ".json" or file.name.startswith(".")]


def test_one_of_two_processes_may_die_and_order_and_batch_size_change_nothing(
    undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "shared"
    first = ForkedCommand(words(out), tmp_path / "first")
    second = ForkedCommand(words(out, "--batch_size", "3", methods=METHODS[::-1]), tmp_path / "second")
    first.wait_until(lambda: written(out) >= 3)
    first.send(signal.SIGKILL)
    assert (first.wait(), second.wait()) == (-signal.SIGKILL, 0), second.log.read_text()
    assert answers(out) == answers(undisturbed)
    assert tables(out) == tables(undisturbed)
