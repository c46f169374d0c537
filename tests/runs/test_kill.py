"""Runs whose ranks are killed, also while a checkpoint is written, end like a run that is not interrupted.

ForkServer and moments are chosen by a seed; set FRAMEFOLD_KILL_SEED=n for another one.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.__main__ import main
from framefold.training.checkpoint.inventory import list_checkpoints, verify_checkpoint
from framefold.training.checkpoint.read import safe_deepspeed_load
from framefold.training.module import CompressorModule
from tests.support.limits import HANG
from tests.support.ranks.fork_server import ForkServer, Run

SEED = int(os.environ.get("FRAMEFOLD_KILL_SEED", 6))
STEPS, EPOCHS, EVERY = 18, 3, 2
COMMON = ["--config", "data/shards", "--config", "trainer/cpu", "--data.seed", "3", "--last.every", str(EVERY)]
COMMON += ["--trainer.check_val_every_n_epoch", "null", "--trainer.enable_progress_bar", "false", "--resume", "auto"]
COMMON += ["--trainer.devices", "2", "--trainer.strategy"]
# Checkpoints are files, loader workers read ahead, and validations write further checkpoints.
FILES = ["ddp", "--config", "compressor/storm", "--data.batch_size", "2", "--data.workers", "1"]
FILES += ["--trainer.max_steps", str(STEPS)]
FILES += ["--trainer.val_check_interval", "4", "--data.val_videos", "2", "--data.val_frames", "16"]
# Checkpoints are folders, epochs are counted instead of steps, and the last step of an epoch has one batch, not two.
FOLDERS = ["deepspeed_cpu_stage_2", "--config", "compressor/fila", "--data.batch_size", "1"]
FOLDERS += ["--trainer.max_steps", "-1", "--trainer.max_epochs", str(EPOCHS)]
FOLDERS += ["--trainer.accumulate_grad_batches", "2", "--trainer.limit_val_batches", "0"]
Batches = dict[tuple[int, int, int], tuple[int, list[str]]]  # (rank, epoch, index): steps done, samples


class Training:
    """Two ranks that are started repeatedly with one run folder."""

    def __init__(self, ranks: ForkServer, words: list[str], root: Path) -> None:
        self.ranks, self.root, self.runs = ranks, root, 0
        self.words = [*words, "--trainer.default_root_dir", str(root / "runs")]
        self.batches: Batches = {}  # as they were trained last
        self.saved = 0  # steps that must be in a checkpoint
        self.changes = [0, 0]  # number of changes of the disk by one checkpoint, by rank

    def run(self, **kill: Any) -> Run:
        """Run until the end or a kill; survivors that do not notice the kill are killed, as launchers do."""
        records = self.root / f"records{self.runs}"
        records.mkdir(parents=True)
        self.runs += 1
        code = f"from tests.support.ranks.killed_ranks import arm\narm(rank, {str(records)!r}, **{kill!r})"
        run = self.ranks.run(self.words, records, timeout=HANG, code=code)
        found = re.search(r"resume: (?:from .*, step (\d+)|no checkpoint in)", run.text())
        assert found, run.text()
        start = int(found[1] or 0)
        assert start >= self.saved, f"{self.saved} steps had been saved\n{run.text()}"
        started = [self._read(records, rank) for rank in (0, 1)]
        assert {steps[0] for steps in started if steps} <= {start}
        self.saved = max([self.saved, *(step - step % EVERY for steps in started for step in steps)])
        return run

    def _read(self, records: Path, rank: int) -> list[int]:
        """Read the records of a rank; return the steps that it has started."""
        batches, saves = (_lines(records / f"{name}.{rank}") for name in ("batches", "saves"))
        self.batches |= {(rank, epoch, number): (step, samples) for epoch, number, step, samples in batches}
        self.changes[rank] = max([self.changes[rank], *(changes for _, changes in saves)])
        return [step for _, _, step, _ in batches]

    @property
    def checkpoint(self) -> Path:
        """The final checkpoint."""
        return self.root / "runs" / f"version_{self.runs - 1}" / "checkpoints" / "last.ckpt"

    def damage(self, how: str, rng: random.Random) -> str:
        """Damage the latest checkpoint; return a pattern of the next run's output, "" if there is no earlier one."""
        complete = [found for found in list_checkpoints(self.root / "runs") if not verify_checkpoint(found).problem]
        if len(complete) < 2 or complete[0].path.name.startswith("."):  # no warning follows for hidden names
            return ""
        last, before = complete[:2]
        file = max([*last.path.rglob("*.pt"), last.path], key=lambda file: file.is_file() and file.stat().st_size)
        if how == "truncated":
            os.truncate(file, rng.randrange(file.stat().st_size))
        else:
            data = bytearray(file.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            file.write_bytes(data)
        self.saved = before.step
        return rf"damaged checkpoint left out: {last.path}\b.*\nresume: from {before.path}, step {before.step}\n"


def _lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def kills(kinds: list[str], changes: list[int], rng: random.Random) -> list[dict[str, Any]]:
    """Draw settings of ``killed_ranks.Armed`` in ascending order of steps; the last two come after a checkpoint.

    Args:
        kinds: "one" or "all" ranks, "while saving".
        changes: see :class:`Training`.
        rng: source of the random choices.
    """
    steps = [*rng.choices(range(STEPS - 5), k=len(kinds) - 2), *rng.choices(range(5, STEPS - 5), k=2)]
    drawn: list[dict[str, Any]] = []
    for kind, step in zip(rng.sample(kinds, len(kinds)), sorted(steps), strict=True):
        kill: dict[str, Any] = {"step": step, "victims": (0, 1) if "all" in kind else (rng.randrange(2),)}
        if "saving" in kind:
            trigger = rng.choice([rank for rank in (0, 1) if changes[rank]])
            moment = {"passed": rng.randrange(2), "change": rng.randint(1, changes[trigger])}
            drawn.append({**kill, **moment, "trigger": trigger})
        else:
            drawn.append({**kill, "trigger": rng.randrange(2), "seconds": rng.uniform(0, 0.2)})
    return drawn


def state(path: Path) -> dict[str, Any]:
    """Return all values in a checkpoint except for paths and what Lightning counts from zero in every process."""
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    with safe_deepspeed_load():
        leaves = [leaf for file in files for leaf in _leaves(torch.load(file, weights_only=True), file.name)]
    other = ("/callbacks/", "/epoch_progress/", "val_loop", "/total/")
    return {name: value for name, value in leaves if not any(part in name for part in other)}


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    if type(tree).__name__ == "LossScaler":
        tree = vars(tree)
    if not isinstance(tree, (dict, list, tuple)):
        yield name, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{name}/{key}")


def assert_every_sample_once(batches: Batches, shards: Path) -> None:
    names: set[str] = set()
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as archive:
            names |= {name.partition(".")[0] for name in archive.getnames()}
    for epoch in range(EPOCHS):
        seen = Counter(name for (_, of, _), (_, samples) in batches.items() if of == epoch for name in samples)
        assert seen == dict.fromkeys(names, 1) and len(names) == 22


def remaining_processes(ranks: ForkServer) -> list[str]:
    """Return what still runs in the process group of the server, such as loader workers, after 20 seconds."""
    end = time.monotonic() + 20
    while True:
        listed = subprocess.run(["ps", "-eo", "pgid=,pid=,stat=,args="], capture_output=True, text=True, check=True)
        found = [row for row in map(str.split, listed.stdout.splitlines()) if row[0] == str(ranks.process.pid)]
        rest = [" ".join(row) for row in found if row[1] != row[0] and "Z" not in row[2]]
        if not rest or time.monotonic() > end:
            return rest
        time.sleep(0.2)


@pytest.mark.timeout(2 * HANG)
@pytest.mark.parametrize(
    ("words", "kinds", "damages"),
    [
        (FILES, ["one", "all", "all while saving", "one while saving"], ["truncated"]),
        (FOLDERS, ["one", "all", "one while saving", "all while saving"], ["truncated", "bit-flipped"]),
    ],
    ids=["files", "folders"],
)
def test_a_run_that_is_killed_repeatedly_ends_like_an_uninterrupted_one(
    ranks: ForkServer,
    random_host: Path,
    shards: Path,
    tmp_path: Path,
    words: list[str],
    kinds: list[str],
    damages: list[str],
) -> None:
    words = ["fit", *COMMON, *words, "--model.host", str(random_host), "--data.shards", str(shards)]
    uninterrupted, killed = (
        Training(ranks, words, tmp_path / "uninterrupted"),
        Training(ranks, words, tmp_path / "killed"),
    )
    assert uninterrupted.run().statuses == [0, 0]
    assert_every_sample_once(uninterrupted.batches, shards)
    rng, text = random.Random(SEED), ""
    for kill in kills(kinds, uninterrupted.changes, rng):
        print(f"seed {SEED}: {kill}")
        run = killed.run(**kill)
        assert re.search(text, run.text(), re.DOTALL), run.text()
        for rank, status in enumerate(run.statuses):
            assert status == -signal.SIGKILL if rank in kill["victims"] else status != 0, run.text(rank)
        text = killed.damage(damages[0], rng) if damages else ""
        damages = damages[bool(text) :]
    run = killed.run()
    assert run.statuses == [0, 0] and re.search(text, run.text(), re.DOTALL), run.text()
    assert not damages and not remaining_processes(ranks)
    assert_every_sample_once(killed.batches, shards)
    assert killed.batches == uninterrupted.batches
    expected, found = state(uninterrupted.checkpoint), state(killed.checkpoint)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        same = value.equal(found[name]) if isinstance(value, torch.Tensor) else value == found[name]
        assert same, f"{name} is {found[name]}, not {value}"


def test_a_run_resumed_at_the_end_of_an_epoch_and_again_trains_the_same_epochs(
    random_host: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "fit",
        *COMMON[: COMMON.index("--trainer.devices")],
        "--config",
        "compressor/fila",
        "--data.batch_size",
        "4",
    ]
    words += ["--model.host", str(random_host), "--data.shards", str(shards), "--trainer.limit_val_batches", "0"]
    words += ["--trainer.max_steps", "-1", "--trainer.max_epochs", str(EPOCHS), "--trainer.default_root_dir"]
    training_step, stop, batches = CompressorModule.training_step, -1, {}

    def noted_step(module: CompressorModule, batch: Any, batch_idx: int) -> Any:
        if module.global_step == stop:
            raise KeyboardInterrupt
        batches[module.global_step] = module.current_epoch, batch_idx, [sample.key for sample in batch.samples]
        return training_step(module, batch, batch_idx)

    monkeypatch.setattr(sys, "argv", ["framefold"])
    monkeypatch.setattr(CompressorModule, "training_step", noted_step)
    assert main([*words, str(tmp_path / "uninterrupted")]) == 0
    uninterrupted, batches = batches, {}
    stop = 7  # there is a checkpoint of step 6, the end of an epoch
    assert main([*words, str(tmp_path / "run")]) == 130
    stop = 9
    assert main([*words, str(tmp_path / "run")]) == 130
    stop = -1
    assert main([*words, str(tmp_path / "run")]) == 0
    assert len(uninterrupted) == 18 and batches == uninterrupted
