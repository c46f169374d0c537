"""The command ``framefold tinyhost train``: train a tinyhost from random weights."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from framefold.data.synthetic.difficulty import resolve_difficulty
from framefold.data.synthetic.questions import HELPER_TYPES, QUESTION_TYPES
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import HostError
from framefold.files import replace_file
from framefold.training.checkpoint.write import AtomicCheckpointIO
from framefold.training.fit.interrupt import reraise_interrupt
from framefold.training.fit.progress import progress_display
from framefold.training.fit.warning_filters import filter_warnings
from framefold.training.frozen_host.load import load_host

from .build import Architecture, build_host, build_tokenizer, save_host
from .modules import HostTraining, LanguageTraining
from .stage import Stage
from .token_views import VIEWS
from .vision import VisionTraining

EPOCH = 50  # steps between rows of the training curve, and between resume points

TRAINABLE_TYPES = (*QUESTION_TYPES, *HELPER_TYPES)

SOURCES = ("drawn", "videos")

KINDS = {"vision": VisionTraining, "language": LanguageTraining}

# Measured on one AVX512-BF16 core: bf16 speeds the tower up 2.4 times, and slows the language model's backward down.
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
    """Train a host stage by stage, and write it to a folder that transformers loads.

    Args:
        out: folder of the host; overwritten after every stage, so that it always holds the latest host.
        stages: what to train, in order; see training.tinyhost.stage.Stage.
        architecture: sizes of the model.
        seed: of weights and data.
        resume: continue from the resume points in ``work``; false deletes them.
        work: folder of logs and resume points; by default ``OUT.work``.
        start: folder of a host to start from, instead of random weights.
        threads: torch threads.
        accelerator: cpu, gpu or auto; one device.
        workers: number of processes that generate videos ahead, while a thread encodes the next batch; 0 generates and
            encodes in turn with the training steps. The trained weights do not depend on it.

    Raises:
        HostError: A stage is invalid, or the accelerator is not available.
    """
    _check(stages)
    kind = _accelerator(accelerator)
    filter_warnings()
    torch.set_num_threads(threads)
    folder = Path(work or f"{out.rstrip('/')}.work")
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
    pl.seed_everything(seed, verbose=False)
    host = load_host(start).model if start else build_host(architecture, seed)
    _check_fit(stages, host.config.vision_config)
    tokenizer = build_tokenizer()
    for stage in stages:
        host.requires_grad_(False)
        module = KINDS[stage.kind](host, tokenizer, stage, seed)
        module.train()
        _fit(module, stage, folder / stage.name, kind, workers)
        host.eval()
        save_host(host, out)
        _write_curves([folder / one.name for one in stages], Path(out) / "training_curve.csv")


def _check(stages: list[Stage]) -> None:
    """Check all stages before the first one, since hours may pass before the last one starts."""
    for stage in stages:
        if stage.kind not in KINDS:
            raise HostError(f"stage {stage.name!r} has kind {stage.kind!r}; known: {', '.join(KINDS)}")
        if stage.kind == "language" and not stage.mixes:
            raise HostError(f"stage {stage.name!r} needs mixes, the views of a video that the language model sees")
        if stage.source not in SOURCES:
            raise HostError(f"stage {stage.name!r} has source {stage.source!r}; known: {', '.join(SOURCES)}")
        if stage.steps < 1:
            raise HostError(f"stage {stage.name!r} needs at least one step, not {stage.steps}")
        if not stage.difficulty or stage.questions < 1:
            raise HostError(f"stage {stage.name!r} needs a difficulty and at least one question a video")
        for what, names, known in (
            ("a mix", [mix.how for mix in stage.mixes], VIEWS),
            ("a question type", [*stage.types, *(kind for mix in stage.mixes for kind in mix.types)], TRAINABLE_TYPES),
        ):
            if unknown := [name for name in names if name not in known]:
                raise HostError(f"stage {stage.name!r} has {what} {unknown[0]!r}; known: {', '.join(known)}")
        for difficulty in stage.difficulty:
            Recipe(stage.frames, difficulty=difficulty)  # raises if length or difficulty is invalid
    if len({stage.name for stage in stages}) < len(stages):
        raise HostError("two stages have the same name; their resume points would overwrite each other")


def _check_fit(stages: list[Stage], vision: Any) -> None:
    """Check that the host can be trained by these stages."""
    for stage in stages:
        if stage.summary and not vision.vision_use_head:
            raise HostError(
                f"stage {stage.name!r} has a summary, the task of a pooling head: set architecture.vision_use_head"
            )
        drawn = stage.kind == "vision" and stage.source == "drawn"
        sizes = {resolve_difficulty(difficulty).size for difficulty in stage.difficulty}
        if not drawn and sizes != {vision.image_size}:
            raise HostError(
                f"stage {stage.name!r} has videos of {', '.join(map(str, sorted(sizes)))} pixels, and the host takes"
                f" {vision.image_size}: change architecture.image, or size in the stage's difficulty"
            )


def _accelerator(name: str) -> str:
    if name not in ("cpu", "gpu", "auto"):
        raise HostError(f"accelerator must be cpu, gpu or auto, not {name!r}")
    available = torch.cuda.is_available()
    if name == "gpu" and not available:
        raise HostError(
            "accelerator gpu, but torch sees no CUDA device: use --accelerator cpu, or install torch for it"
        )
    return "gpu" if available and name != "cpu" else "cpu"


def _fit(module: HostTraining, stage: Stage, folder: Path, accelerator: str, workers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    shown = os.environ.get("FRAMEFOLD_PROGRESS", "1") != "0"
    display = [progress_display(f"tinyhost train, {stage.name}")] if shown else []
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
        callbacks=[
            *display,
            ModelCheckpoint(folder, last.stem, save_on_train_epoch_end=True, enable_version_counter=False),
        ],
        log_every_n_steps=EPOCH,
        enable_model_summary=False,
        enable_progress_bar=shown,
        num_sanity_val_steps=0,
    )
    first = torch.load(last, map_location="cpu", weights_only=True)["global_step"] if last.is_file() else 0
    batches = EpochBatches(module.batch_function(), first, stage.steps, workers, module.encode_batch)
    with reraise_interrupt(trainer):
        trainer.fit(module, batches, ckpt_path=last if first else None)


class _Steps(Dataset[Any]):
    """Dataset in which item i is the batch of step i."""

    def __init__(self, batch_function: Callable[[int], Any], steps: int) -> None:
        self.batch_function, self.steps = batch_function, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Any:
        return self.batch_function(step)


class EpochBatches:
    """Iterable over the batches of an epoch; the next iteration continues with the next epoch.

    Args:
        batch_function: from the number of a step to its batch.
        first: step of the first batch.
        steps: of the stage.
        workers: number of processes that generate batches; they live through epochs. With any, a thread encodes the
            batch of the next step.
        encode: applied to each batch, in this process.
    """

    def __init__(
        self,
        batch_function: Callable[[int], Any],
        first: int,
        steps: int,
        workers: int,
        encode: Callable[[Any], Any] | None = None,
    ) -> None:
        loader: DataLoader[Any] = DataLoader(
            _Steps(batch_function, steps),
            batch_size=None,
            sampler=range(first, steps),
            num_workers=workers,
            collate_fn=return_unchanged,
            multiprocessing_context="spawn" if workers else None,  # a fork of torch threads can deadlock
        )
        encode = encode or return_unchanged
        self.batches = _encode_ahead(encode, loader) if workers else map(encode, loader)

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[Any]:
        return islice(self.batches, EPOCH)


def _encode_ahead(encode: Callable[[Any], Any], batches: Iterable[Any]) -> Iterator[Any]:
    """Yield encoded batches; a thread encodes the next one while the caller uses the last."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as thread:
        waiting: list[Future[Any]] = []
        for batch in batches:
            waiting.append(thread.submit(encode, batch))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        for last in waiting:
            yield last.result()


def return_unchanged(batch: Any) -> Any:
    """Return the batch; a picklable ``collate_fn`` for datasets whose items are batches."""
    return batch


def _write_curves(folders: list[Path], out: Path) -> None:
    """Write the curves of all stages to one CSV file: stage, step, cpu_seconds, metric, value."""
    rows = [("stage", "step", "cpu_seconds", "metric", "value")]
    for curve in (folder / "curve.csv" for folder in folders):
        for row in csv.DictReader(curve.open()) if curve.is_file() else ():
            step, seconds = row.pop("step"), row.pop("cpu_seconds")
            rows += [(curve.parent.name, step, seconds, k, v) for k, v in row.items() if v]
    replace_file(out, lambda path: path.write_text("".join(",".join(row) + "\n" for row in rows)))
