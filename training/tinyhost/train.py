"""Train the embedded host from nothing: the verb `framefold tinyhost train`."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from framefold.data.synthetic.questions import HELPERS, QUESTION_TYPES
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import HostError
from framefold.files import replace_file
from framefold.training.checkpoint.write import AtomicCheckpointIO
from framefold.training.fit.session import interruptible, quiet
from framefold.training.frozen_host.load import load_host

from .build import Architecture, build_host, build_tokenizer, save_host
from .modules import HostTraining, LanguageTraining, VisionTraining
from .stage import Stage
from .token_views import WAYS

EPOCH = 50  # steps between rows of the log and points to resume from

TEACHABLE = (*QUESTION_TYPES, *HELPERS)

KINDS = {"vision": VisionTraining, "language": LanguageTraining}

# Measured on one AVX512-BF16 core: bf16 makes the tower 2.4 times as fast, and the language model's backward slower.
PRECISION = {"cpu": {"vision": "bf16-mixed", "language": "32-true"}}


def train(
    out: str,
    stages: list[Stage],
    architecture: Architecture = Architecture(),  # noqa: B008 (frozen)
    seed: int = 0,
    resume: bool = True,
    work: str | None = None,
    start: str | None = None,
    threads: int = 1,
    accelerator: str = "cpu",
    workers: int = 0,
) -> None:
    """Train a host stage by stage and write it to a folder that transformers loads.

    Args:
        out: the host's folder; overwritten after every stage, so that a half-trained host is there to use.
        stages: what to train, in order; see training.host_modules.Stage.
        architecture: sizes of the model.
        seed: of weights and data.
        resume: go on from what `work` holds; false starts afresh.
        work: logs and resume points; `OUT.work` by default.
        start: folder of a host to go on from instead of random weights.
        threads: torch threads.
        accelerator: cpu, gpu or auto; one device.
        workers: processes that draw videos ahead; 0 draws them in the training process.

    Raises HostError for a stage that cannot be, or an accelerator that is not there.
    """
    _check(stages)
    kind = _accelerator(accelerator)
    quiet()
    torch.set_num_threads(threads)
    folder = Path(work or f"{out.rstrip('/')}.work")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    pl.seed_everything(seed, verbose=False)
    host = load_host(start).model if start else build_host(architecture, seed)
    tokenizer = build_tokenizer()
    for stage in stages:
        host.requires_grad_(False)
        module = KINDS[stage.kind](host, tokenizer, stage, seed)
        module.train()
        _fit(module, stage, folder / stage.name, kind, workers)
        host.eval()
        save_host(host, out)
        _write_curve([folder / done.name for done in stages], Path(out) / "training_curve.csv")


def _check(stages: list[Stage]) -> None:
    """Everything that a stage names is there: hours may lie between the start and the last stage."""
    for stage in stages:
        if stage.kind not in KINDS:
            raise HostError(f"stage {stage.name!r} is of kind {stage.kind!r}; known: {', '.join(KINDS)}")
        if stage.kind == "language" and not stage.mixes:
            raise HostError(f"stage {stage.name!r} needs mixes: what the language model sees of a video")
        if stage.steps < 1:
            raise HostError(f"stage {stage.name!r} needs at least one step, not {stage.steps}")
        if not stage.difficulty or stage.questions < 1:
            raise HostError(f"stage {stage.name!r} needs a difficulty and at least one question a video")
        for what, names, known in (
            ("a mix", [mix.how for mix in stage.mixes], WAYS),
            ("a question type", [*stage.types, *(kind for mix in stage.mixes for kind in mix.types)], TEACHABLE),
        ):
            if unknown := [name for name in names if name not in known]:
                raise HostError(f"stage {stage.name!r} has {what} {unknown[0]!r}; known: {', '.join(known)}")
        for difficulty in stage.difficulty:
            Recipe(stage.frames, difficulty=difficulty)  # says what is wrong with either
    if len({stage.name for stage in stages}) < len(stages):
        raise HostError("two stages have the same name; their resume points would overwrite each other")


def _accelerator(name: str) -> str:
    if name not in ("cpu", "gpu", "auto"):
        raise HostError(f"accelerator must be cpu, gpu or auto, not {name!r}")
    there = torch.cuda.is_available()
    if name == "gpu" and not there:
        raise HostError(
            "accelerator gpu, but torch sees no CUDA device: use --accelerator cpu, or install torch for it"
        )
    return "gpu" if there and name != "cpu" else "cpu"


def _fit(module: HostTraining, stage: Stage, folder: Path, accelerator: str, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=PRECISION.get(accelerator, {}).get(stage.kind, "bf16-mixed"),  # type: ignore[arg-type]
        max_steps=stage.steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        default_root_dir=folder,
        logger=False,
        plugins=[AtomicCheckpointIO()],
        callbacks=[ModelCheckpoint(folder, last.stem, save_on_train_epoch_end=True, enable_version_counter=False)],
        log_every_n_steps=EPOCH,
        enable_model_summary=False,
        enable_progress_bar=os.environ.get("FRAMEFOLD_PROGRESS", "1") != "0",
        num_sanity_val_steps=0,
    )
    begun = torch.load(last, map_location="cpu", weights_only=True)["global_step"] if last.is_file() else 0
    with interruptible(trainer):
        trainer.fit(module, Epochs(module.draw(), begun, stage.steps, workers), ckpt_path=last if begun else None)


class _Steps(Dataset[Any]):
    """Item i is the batch of step i."""

    def __init__(self, draw: Callable[[int], Any], steps: int) -> None:
        self.draw, self.steps = draw, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        return self.draw(step)


class Epochs:
    """The batches of steps begun..steps-1 in order, EPOCH of them at each iteration; workers live through epochs."""

    def __init__(self, draw: Callable[[int], Any], begun: int, steps: int, workers: int) -> None:
        loader: DataLoader[Any] = DataLoader(
            _Steps(draw, steps),
            batch_size=None,
            sampler=range(begun, steps),
            num_workers=workers,
            collate_fn=as_it_is,
            multiprocessing_context="spawn" if workers else None,  # forking after torch threads began can deadlock
        )
        self.batches = iter(loader)

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, EPOCH)


def as_it_is(batch: Any) -> Any:
    """What a worker made is a batch already."""
    return batch


def _write_curve(folders: list[Path], out: Path) -> None:
    """All stages' curves as one CSV: stage, step, cpu_seconds, metric, value."""
    rows = [("stage", "step", "cpu_seconds", "metric", "value")]
    for curve in (folder / "curve.csv" for folder in folders):
        for row in csv.DictReader(curve.open()) if curve.is_file() else ():
            step, seconds = row.pop("step"), row.pop("cpu_seconds")
            rows += [(curve.parent.name, step, seconds, k, v) for k, v in row.items() if v]
    replace_file(out, lambda beside: beside.write_text("".join(",".join(row) + "\n" for row in rows)))
