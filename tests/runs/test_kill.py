"""kill -9 of one rank, of all, and in the middle of a checkpoint: the run that goes on ends as if nothing had been.

Who is killed and when is drawn from a seed; FRAMEFOLD_KILL_SEED=n tries another one.
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
from framefold.training.checkpoint.inventory import verify, find_checkpoints, peek
from framefold.training.checkpoint.read import only_tensors
from framefold.training.module import CompressorModule

from tests.support.ranks.fork_server import Ranks, Run

SEED = int(os.environ.get("FRAMEFOLD_KILL_SEED", 6))
STEPS, EPOCHS, EVERY = 18, 3, 2
COMMON = ["--config", "data/shards", "--config", "trainer/cpu", "--data.seed", "3", "--last.every", str(EVERY)]
COMMON += ["--trainer.check_val_every_n_epoch", "null", "--trainer.enable_progress_bar", "false", "--resume", "auto"]
COMMON += ["--trainer.devices", "2", "--trainer.strategy"]
# Checkpoints are files; loader workers read ahead, and validations write more checkpoints.
FILES = ["ddp", "--config", "compressor/storm", "--data.batch_size", "2", "--data.workers", "1"]
FILES += ["--trainer.max_steps", str(STEPS)]
FILES += ["--trainer.val_check_interval", "4", "--data.val_videos", "2", "--data.val_frames", "16"]
# Checkpoints are folders; epochs are counted, not steps; a step has two batches, but the last of an epoch has one.
FOLDERS = ["deepspeed_cpu_stage_2", "--config", "compressor/fila", "--data.batch_size", "1"]
FOLDERS += ["--trainer.max_steps", "-1", "--trainer.max_epochs", str(EPOCHS)]
FOLDERS += ["--trainer.accumulate_grad_batches", "2", "--trainer.limit_val_batches", "0"]
Batches = dict[tuple[int, int, int], tuple[int, list[str]]]  # (rank, epoch, number in it): steps done, samples


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    server = Ranks("deepspeed")
    yield server
    server.close()


class Training:
    """Two ranks that are started again and again in one folder."""

    def __init__(self, ranks: Ranks, words: list[str], root: Path) -> None:
        self.ranks, self.root, self.runs = ranks, root, 0
        self.words = [*words, "--trainer.default_root_dir", str(root / "runs")]
        self.batches: Batches = {}  # what each held when it was trained on last
        self.saved = 0  # steps that no kill can take back
        self.changes = [0, 0]  # of the disk by a checkpoint, for each rank

    def run(self, **kill: Any) -> Run:
        """Until the end, or a kill; a survivor has time to notice, then it is killed, as launchers do."""
        notes = self.root / f"notes{self.runs}"
        notes.mkdir(parents=True)
        self.runs += 1
        code = f"from killed_ranks import arm\narm(rank, {str(notes)!r}, **{kill!r})"
        run = self.ranks.run(self.words, notes, timeout=60, code=code)
        found = re.search(r"resume: (?:from .*, step (\d+)|nothing in)", run.text())
        assert found, run.text()
        start = int(found[1] or 0)
        assert start >= self.saved, f"{self.saved} steps had been saved\n{run.text()}"
        begun = [self._read(notes, rank) for rank in (0, 1)]
        assert {steps[0] for steps in begun if steps} <= {start}
        self.saved = max([self.saved, *(step - step % EVERY for steps in begun for step in steps)])
        return run

    def _read(self, notes: Path, rank: int) -> list[int]:
        batches, saves = (_lines(notes / f"{name}.{rank}") for name in ("batches", "saves"))
        self.batches |= {(rank, epoch, number): (step, samples) for epoch, number, step, samples in batches}
        self.changes[rank] = max([self.changes[rank], *(changes for _, changes in saves)])
        return [step for _, _, step, _ in batches]

    @property
    def checkpoint(self) -> Path:
        """The final one."""
        return self.root / "runs" / f"version_{self.runs - 1}" / "checkpoints" / "last.ckpt"

    def damage(self, how: str, rng: random.Random) -> str:
        """Spoil the newest checkpoint; returns what the next run is to say, "" if there is none before it yet."""
        whole = [found for found in find_checkpoints(self.root / "runs") if not verify(found).problem]
        if len(whole) < 2 or whole[0].path.name.startswith("."):  # the like of that is expected after a kill
            return ""
        last, before = whole[:2]
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
    """Settings of :class:`.killed_ranks.Armed`, in ascending order of steps, the last ones with something before them.

    Args:
        kinds: "one" or "all" ranks, "while saving". changes: see :class:`Training`.
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
    """All that is in a checkpoint, but for where it lies, and what Lightning counts anew in every process."""
    files = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
    with only_tensors():
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


def every_sample_once(batches: Batches, shards: Path) -> None:
    names: set[str] = set()
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as archive:
            names |= {name.partition(".")[0] for name in archive.getnames()}
    for epoch in range(EPOCHS):
        seen = Counter(name for (_, of, _), (_, samples) in batches.items() if of == epoch for name in samples)
        assert seen == dict.fromkeys(names, 1) and len(names) == 22


def left(ranks: Ranks) -> list[str]:
    """What runs in the process group of the ranks, such as loader workers, after they have had time to end."""
    end = time.monotonic() + 20
    while True:
        listed = subprocess.run(["ps", "-eo", "pgid=,pid=,stat=,args="], capture_output=True, text=True, check=True)
        found = [row for row in map(str.split, listed.stdout.splitlines()) if row[0] == str(ranks.server.pid)]
        rest = [" ".join(row) for row in found if row[1] != row[0] and "Z" not in row[2]]
        if not rest or time.monotonic() > end:
            return rest
        time.sleep(0.2)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("words", "kinds", "damages"),
    [
        (FILES, ["one", "one", "all", "all while saving", "one while saving", "one while saving"], ["truncated"]),
        (FOLDERS, ["one", "all", "one while saving", "all while saving"], ["truncated", "bit-flipped"]),
    ],
    ids=["files", "folders"],
)
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(
    ranks: Ranks,
    random_host: Path,
    shards: Path,
    tmp_path: Path,
    words: list[str],
    kinds: list[str],
    damages: list[str],
) -> None:
    words = ["fit", *COMMON, *words, "--model.host", str(random_host), "--data.shards", str(shards)]
    undisturbed, killed = Training(ranks, words, tmp_path / "undisturbed"), Training(ranks, words, tmp_path / "killed")
    assert undisturbed.run().statuses == [0, 0]
    every_sample_once(undisturbed.batches, shards)
    rng, text = random.Random(SEED), ""
    for kill in kills(kinds, undisturbed.changes, rng):
        print(f"seed {SEED}: {kill}")
        run = killed.run(**kill)
        assert re.search(text, run.text(), re.DOTALL), run.text()
        for rank, status in enumerate(run.statuses):
            assert status == -signal.SIGKILL if rank in kill["victims"] else status != 0, run.text(rank)
        text = killed.damage(damages[0], rng) if damages else ""
        damages = damages[bool(text) :]
    run = killed.run()
    assert run.statuses == [0, 0] and re.search(text, run.text(), re.DOTALL), run.text()
    assert not damages and not left(ranks)
    every_sample_once(killed.batches, shards)
    assert killed.batches == undisturbed.batches
    expected, found = state(undisturbed.checkpoint), state(killed.checkpoint)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        same = value.equal(found[name]) if isinstance(value, torch.Tensor) else value == found[name]
        assert same, f"{name} is {found[name]}, not {value}"


def test_a_run_that_goes_on_from_the_end_of_an_epoch_and_again_trains_as_many_epochs(
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
    assert main([*words, str(tmp_path / "whole")]) == 0
    whole, batches = batches, {}
    stop = 7  # there is a checkpoint of step 6, the end of an epoch
    assert main([*words, str(tmp_path / "run")]) == 130
    stop = 9
    assert main([*words, str(tmp_path / "run")]) == 130
    stop = -1
    assert main([*words, str(tmp_path / "run")]) == 0
    assert len(whole) == 18 and batches == whole


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_truncated_is_named(tmp_path: Path, part: float) -> None:
    file = tmp_path / "last.ckpt"
    torch.save({"global_step": 3, "state_dict": {"a": torch.randn(3000)}}, file)
    os.truncate(file, int(file.stat().st_size * part))
    assert str(file) in peek(file).problem
