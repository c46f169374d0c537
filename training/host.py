"""Train the embedded host from nothing: the verb `framefold host train`."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader

from .host_modules import LanguageTraining, Stage, VisionTraining
from .hostio import Architecture, HostError, build_host, build_tokenizer, save_host

EPOCH = 50  # steps between rows of the log and points to resume from
KINDS = {"vision": VisionTraining, "language": LanguageTraining}
# Measured on one AVX512-BF16 core: bf16 makes the tower 2.4 times as fast, and the language model's backward slower.
PRECISION = {"vision": "bf16-mixed", "language": "32-true"}


def train(
    out: str,
    stages: list[Stage],
    architecture: Architecture = Architecture(),  # noqa: B008 (frozen)
    seed: int = 0,
    resume: bool = True,
    work: str | None = None,
    threads: int = 1,
) -> None:
    """Train a host stage by stage and write it to a folder that transformers loads.

    Args:
        out: the host's folder; overwritten after every stage, so that a half-trained host is there to use.
        stages: what to train, in order; see training.host_modules.Stage.
        architecture: sizes of the model.
        seed: of weights and data.
        resume: go on from what `work` holds; false starts afresh.
        work: logs and resume points; `OUT.work` by default.
        threads: torch threads.

    Raises HostError for an unknown kind of stage.
    """
    _check(stages)
    torch.set_num_threads(threads)
    folder = Path(work or f"{out.rstrip('/')}.work")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    pl.seed_everything(seed, verbose=False)
    host, tokenizer = build_host(architecture, seed), build_tokenizer()
    for stage in stages:
        host.requires_grad_(False)
        module = KINDS[stage.kind](host, tokenizer, stage, seed)
        module.train()
        _fit(module, stage, folder / stage.name)
        host.eval()
        save_host(host, out)
        _write_curve([folder / done.name for done in stages], Path(out) / "training_curve.csv")


def _check(stages: list[Stage]) -> None:
    for stage in stages:
        if stage.kind not in KINDS:
            raise HostError(f"stage {stage.name!r} is of kind {stage.kind!r}; known: {', '.join(KINDS)}")
        if stage.kind == "language" and not stage.mixes:
            raise HostError(f"stage {stage.name!r} needs mixes: what the language model sees of a video")
    if len({stage.name for stage in stages}) < len(stages):
        raise HostError("two stages have the same name; their resume points would overwrite each other")


def _fit(module: pl.LightningModule, stage: Stage, folder: Path) -> None:
    last = folder / "last.ckpt"
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        precision=PRECISION[stage.kind],  # type: ignore[arg-type]
        max_steps=stage.steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0, save_on_train_epoch_end=True)],
        log_every_n_steps=EPOCH,
        enable_model_summary=False,
        enable_progress_bar=os.environ.get("FRAMEFOLD_PROGRESS", "1") != "0",
        num_sanity_val_steps=0,
    )
    # Batches are made inside the step from its number; the loader only counts.
    counter = DataLoader(range(EPOCH), batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, counter, ckpt_path=last if last.is_file() else None)


def _write_curve(folders: list[Path], out: Path) -> None:
    """All stages' logs as one CSV: stage, step, metric, value."""
    rows: list[tuple[str, int, str, float]] = []
    for folder in folders:
        log = folder / "metrics.csv"
        if log.is_file():
            for row in csv.DictReader(log.open()):
                step = int(row.pop("step"))
                row.pop("epoch", None)
                rows += [(folder.name, step, k.removeprefix("train/"), round(float(v), 4)) for k, v in row.items() if v]
    with out.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("stage", "step", "metric", "value"))
        writer.writerows(rows)
