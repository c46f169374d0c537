"""A run that was interrupted anywhere continues like one that never was: same batches, counts, validations, state."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from framefold.data.loading.loader import PartialBatch, ResumableLoader, SampleStream
from framefold.training.checkpoint.callbacks import LastCheckpoint
from framefold.training.checkpoint.trainer import AtomicTrainer
from framefold.training.optimizer import total_steps, warmup_cosine

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice
BATCHES = 5  # of an epoch
VALIDATE = {"limit_val_batches": 2, "check_val_every_n_epoch": 1}


class Positions(SampleStream):
    """Yields (epoch, position) instead of samples."""

    def partial_batches(
        self, epoch: int, positions: range, sizes: list[int], numbers: Iterable[int]
    ) -> Iterator[PartialBatch]:
        for number in numbers:
            first = positions[sum(sizes[:number])]
            yield [(epoch, first + i) for i in range(sizes[number])], ()  # type: ignore[misc]


class Data(pl.LightningDataModule):
    """Five batches an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.previous: Any = None

    def setup(self, stage: str) -> None:
        self.previous = None

    def train_dataloader(self) -> ResumableLoader:
        loader = ResumableLoader(Positions(2 * BATCHES, 2))
        if self.previous is not None:
            loader.continue_from(self.previous)
        self.previous = loader
        return loader

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(Positions(4, 2), restart=True)


class Toy(pl.LightningModule):
    """Records its batches and validations, and may be interrupted before one of them."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        super().__init__()
        self.weight, self.stop, self.record = torch.nn.Parameter(torch.ones(3)), stop, list[Any]()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.stop == ("step", self.global_step):
            raise KeyboardInterrupt
        at = self.global_step, self.current_epoch, batch_idx, self.trainer.accumulate_grad_batches
        self.record.append((*at, batch.samples, self.optimizers().param_groups[0]["lr"]))  # type: ignore[union-attr]
        self.log("train/loss", 0.5)
        return (self.weight * (self.global_step + batch.samples[0][1])).square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.stop == ("validation", self.global_step):
            raise KeyboardInterrupt
        if not self.trainer.sanity_checking and not batch_idx:
            self.record.append(("validation", self.global_step, self.current_epoch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)

        def factor(step: int) -> float:
            return warmup_cosine(step, total_steps(self.trainer), 0.1, 0.0)

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"},
        }


def train(root: Path, settings: dict[str, Any], stop: tuple[str, int] | None = None, resume: Path | None = None) -> Any:
    """Train; return the module, and the trainer."""
    options = dict(settings)
    callbacks = [LastCheckpoint(every=1)]
    if "scheduling" in options:
        callbacks.append(GradientAccumulationScheduler(dict(options.pop("scheduling"))))  # type: ignore[arg-type]
    defaults: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    defaults |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0}
    trainer = AtomicTrainer(**{**defaults, **options}, default_root_dir=root, callbacks=callbacks)
    module = Toy(stop)
    try:
        trainer.fit(module, datamodule=Data(), ckpt_path=resume)
    except SystemExit:
        assert stop is not None
    return module, trainer


def state(root: Path) -> dict[str, Any]:
    """All values of the last checkpoint, except for the paths of checkpoints and what a validation counts."""
    saved = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    return {name: value for name, value in _leaves(saved, "") if "/callbacks/" not in name and "val_loop" not in name}


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, (dict, list, tuple)):
        yield name, tree.tolist() if isinstance(tree, torch.Tensor) else tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{name}/{key}")


EPOCHS, STEPS = {"max_epochs": 3}, {"max_steps": 7}
SETTINGS: list[dict[str, Any]] = [
    EPOCHS,
    STEPS,
    EPOCHS | {"limit_train_batches": 0.5},
    STEPS | {"limit_train_batches": 1},
    STEPS | {"limit_train_batches": 2, "max_epochs": 3},
    EPOCHS | VALIDATE | {"limit_train_batches": 3},
    STEPS | VALIDATE | {"limit_train_batches": 3},
    STEPS | VALIDATE | {"val_check_interval": 2, "check_val_every_n_epoch": None},
    EPOCHS | VALIDATE | {"val_check_interval": 2},
    STEPS | VALIDATE | {"val_check_interval": 4, "limit_train_batches": 3, "check_val_every_n_epoch": None},
    EPOCHS | VALIDATE | {"check_val_every_n_epoch": 2, "limit_train_batches": 2},
    EPOCHS | VALIDATE | {"limit_train_batches": 2, "num_sanity_val_steps": 1},
    EPOCHS | {"limit_train_batches": 3, "accumulate_grad_batches": 2},
    EPOCHS | VALIDATE | {"val_check_interval": 3, "accumulate_grad_batches": 2},
    EPOCHS | {"scheduling": {0: 2, 1: 3}, "limit_train_batches": 4},
    STEPS | VALIDATE | {"reload_dataloaders_every_n_epochs": 2, "limit_train_batches": 2},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_run_that_is_interrupted_anywhere_ends_like_an_uninterrupted_one(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    whole = train(tmp_path / "whole", settings)[0].record
    expected = state(tmp_path / "whole")
    steps = sorted({each[0] for each in whole if each[0] != "validation"})
    stops = [("step", step) for step in steps[1:]] + [each[:2] for each in whole if each[0] == "validation"]
    for stop in stops:
        root = tmp_path / "-".join(map(str, stop))
        train(root, settings, stop)
        rest = train(root, settings, resume=root / "checkpoints" / "last.ckpt")[0].record
        at = [i for i, each in enumerate(whole) if each[0] == stop[1] or each[:2] == stop]
        assert rest == whole[at[0] :], stop
        if stop[0] == "step" or stop[1] < max(steps):  # a last validation saves nothing
            assert state(root) == expected, stop


def test_every_epoch_has_other_batches_with_reloaded_loaders(tmp_path: Path) -> None:
    record = train(tmp_path, EPOCHS | {"reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 2})[0].record
    assert [each[4][0] for each in record] == [(epoch, i) for epoch, i in itertools.product(range(3), (0, 2))]


@pytest.mark.parametrize("shorter", [{"max_epochs": 1}, {"max_epochs": 2}, {"max_steps": 2}, {"max_steps": 4}])
def test_a_longer_run_continues_where_a_finished_one_ended(tmp_path: Path, shorter: dict[str, int]) -> None:
    longer = {"max_epochs": 4, "limit_train_batches": 3}
    whole = train(tmp_path / "whole", longer)[0].record
    module, _ = train(tmp_path / "run", {**longer, **shorter})
    done = len(module.record)
    rest = train(tmp_path / "run", longer, resume=tmp_path / "run" / "checkpoints" / "last.ckpt")[0].record
    assert [each[:5] for each in rest] == [each[:5] for each in whole[done:]]  # the rates follow another schedule


def test_a_changed_limit_takes_effect_in_the_epoch_that_is_resumed(tmp_path: Path) -> None:
    for name, limit, batches in (("lower", 2, [(1, 0), (1, 2)]), ("higher", 4, [(0, 6), (1, 0)])):
        train(tmp_path / name, EPOCHS, ("step", 3))
        settings = EPOCHS | {"limit_train_batches": limit}
        rest = train(tmp_path / name, settings, resume=tmp_path / name / "checkpoints" / "last.ckpt")[0].record
        assert [each[4][0] for each in rest[:2]] == batches, name


def test_the_announced_steps_follow_a_schedule_of_accumulated_batches(tmp_path: Path) -> None:
    for limit, steps in (({}, 5 + 3 + 2), ({"max_steps": 4}, 4), ({"limit_train_batches": 4}, 4 + 2 + 1)):
        settings = EPOCHS | {"scheduling": {0: 1, 1: 2, 2: 4}} | limit
        module, trainer = train(tmp_path / str(steps), settings)
        assert trainer.global_step == total_steps(trainer) == steps
        assert module.record[-1][-1] < 0.01 and module.record[0][-1] == 0.01  # the schedule has that length
