"""framefold checkpoint: another number of ranks goes on exactly, and every form of a checkpoint gives the same tensors."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from framefold.__main__ import main
from framefold.training.checkpoints import crc, find, read_manifest, write_manifest

from .ranks import Ranks, Run

STEPS = 7  # a checkpoint is written after the 4th and after the last
ROOT = str(Path(__file__).resolve().parent.parent)
CODE = "import sys; sys.path.insert(0, {!r}); from tests.watched_training import arm; arm(rank, {})"


class Runs:
    """Trainings on one global batch, each made when it is first asked for."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.ranks, self.words, self.folder = Ranks("deepspeed", "torch.distributed.fsdp"), words, folder
        self.alone = False  # a number has a group of parameters for itself

    def try_to(self, root: Path, strategy: str, world: int, *more: str) -> Run:
        batch = ["--trainer.devices", str(world), "--data.batch_size", str(2 // world), "--trainer.strategy"]
        words = [*self.words, *batch, *strategy.split(), "--trainer.default_root_dir", str(root), *more]
        logs = root.with_name(f"{root.name}-logs-{len(list(root.parent.iterdir()))}")
        return self.ranks.run(words, logs, world=world, code=CODE.format(ROOT, self.alone), WATCH=str(root) + ".pt")

    def fit(self, root: Path, strategy: str, world: int, *more: str) -> dict[str, Any]:
        """What the trainer held, see :mod:`.watched_training`."""
        run = self.try_to(root, strategy, world, *more)
        assert run.statuses == [0] * world, run.text()[-3000:]
        return torch.load(str(root) + ".pt", weights_only=True)

    def undisturbed(self, strategy: str, world: int) -> tuple[Path, dict[str, Any]]:
        """Folder of checkpoints of a whole run, and what its trainer held."""
        root = self.folder / f"{strategy.partition(' ')[0]}-{world}{'-alone' * self.alone}"
        if not root.exists():
            self.fit(root, strategy, world)
        return root / "version_0/checkpoints", torch.load(str(root) + ".pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(random_host: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    where = ["--model.host", str(random_host), "--data.shards", str(shards), "--data.lanes", "2"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--last.every", "4"]
    lora = ["--model.lora.r", "2", "--model.lora.dropout", "0", "--model.lora.lr", "0.01", "--model.warmup", "0.3"]
    found = Runs(
        ["fit", *files, *where, *quiet, *lora, "--trainer.max_steps", str(STEPS)], tmp_path_factory.mktemp("runs")
    )
    yield found
    found.ranks.close()


ZERO_2, ZERO_3 = "deepspeed_cpu_stage_2", "deepspeed_cpu_stage_3"
FSDP2 = "framefold.training.fsdp.FSDP2 --trainer.strategy.save_distributed_checkpoint true"


@pytest.mark.parametrize(
    ("before", "ranks_before", "after", "ranks_after"),
    [
        (ZERO_2, 2, ZERO_2, 1), (ZERO_3, 2, ZERO_3, 1), (ZERO_2, 2, ZERO_3, 1), (ZERO_3, 2, ZERO_2, 1),
        (ZERO_2, 1, ZERO_2, 2),
    ],
)  # fmt: skip
def test_another_number_of_ranks_goes_on_exactly(
    runs: Runs, tmp_path: Path, monkeypatch: Any, before: str, ranks_before: int, after: str, ranks_after: int
) -> None:
    alone = ranks_after > ranks_before  # then the second rank has nothing of that group
    monkeypatch.setattr(runs, "alone", alone)
    checkpoints, whole = runs.undisturbed(before, ranks_before)
    out = str(tmp_path / "any")
    assert main(["checkpoint", "universal", str(checkpoints / "previous.ckpt"), "--out", out]) == 0
    found = runs.fit(tmp_path / "run", after, ranks_after, "--resume", out)
    assert found["weights"].keys() == whole["weights"].keys() and len(found["weights"]) == 6 + alone
    for name, expected in whole["weights"].items():
        for key, value in expected.items():
            assert value.equal(found["weights"][name][key]), (name, key)
            assert bool(value.any()) or name == "compressor.alone"
    assert found["steps"] == whole["steps"] == [4.0]
    assert found["groups"] == whole["groups"] and found["schedule"] == whole["schedule"]
    assert found["schedule"]["last_epoch"] == 4 and 0 < found["groups"][0]["lr"] < found["schedule"]["base_lrs"][0]
    for name, value in whole["end"].items():
        torch.testing.assert_close(found["end"][name], value, atol=1e-5, rtol=0)
        assert (value - whole["weights"][name]["fp32"]).abs().max() > 1e-4 or name == "compressor.alone"
    assert find(tmp_path / "run")[0].step == STEPS
