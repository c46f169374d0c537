"""Train several compressors under several strategies in one group of ranks, and save the weights of each training.

Ranks of :mod:`.fork_server` call :func:`train_all`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from framefold.training.datamodule import VideoData
from framefold.training.fit.warning_filters import filter_warnings
from framefold.training.lora_settings import LoraSettings
from framefold.training.module import CompressorModule
from framefold.training.strategies.deepspeed import register_strategies

STEPS, LANES, GLOBAL_BATCH, ACCUMULATED = 13, 2, 2, 2
LR = 0.02
PARAMS: dict[str, dict[str, Any]] = {
    "storm": {"layers": 1, "scan": "temporal", "headdim": 8, "d_state": 8},
    "qtsplus": {"heads": 4, "reencode_layers": 1},
    "fila": {"members": "cluster", "scene_goal": 4},
    "fila+fastv": {"fila": {"members": "cluster"}},  # pruned inside the language model, complete prompts
    # merged inside the language model, one prefill for the questions of a video; groups do not depend on rounding
    "fila+at_layer": {"at_layer": {"rule": "pool"}},
}
LOSSES = {"qtsplus": {"answer": 1.0, "evidence": 1.0, "kl": 0.5}, "fila": {"kl": 1.0}}
# About the median norm of these gradients. Adam ignores the scale of gradients; where only some steps are clipped, a
# gradient that is summed instead of averaged over the ranks changes the weights.
CLIP = {"storm": 0.013, "qtsplus": 0.6, "fila": 0.0015, "fila+fastv": 0.0045, "fila+at_layer": 0.0045}
FAULTS = ("gradients doubled", "one microbatch dropped", "learning rate 1% larger")


class SaveWeights(pl.Callback):
    """Save the trained weights before and after training as ``FOLDER/NAME-start.pt`` and ``FOLDER/NAME.pt``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, pl_module, f"{self.name}-start.pt")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer, pl_module, f"{self.name}.pt")

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, file: str) -> None:
        weights = {name: gather(p) for name, p in module.named_parameters() if p.requires_grad}
        if trainer.is_global_zero:
            torch.save(weights, self.folder / file)


class Faulty(CompressorModule):
    """A module whose loss is scaled in some microbatches, as a fault in the accumulation of gradients would do."""

    fault = ""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if self.fault == "gradients doubled":
            return loss * 2
        dropped = self.fault == "one microbatch dropped" and (self.global_step, batch_idx) == (2, 4)
        return loss * 0 if dropped else loss


def gather(parameter: torch.Tensor) -> torch.Tensor:
    """Return a copy of a parameter that may be sharded over the ranks."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    value = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return value.detach().clone()


def train(
    host: str,
    shards: str,
    folder: Path,
    compressor: str,
    strategy: str,
    world: int,
    fault: str = "",
    label: str = "",
    **settings: Any,
) -> None:
    """Train one compressor under one strategy; all ranks call it together.

    Args:
        fault: member of ``FAULTS``.
        label: name of the training, by default the fault or the strategy.
        settings: further settings of the module.
    """
    pl.seed_everything(1, verbose=False)
    data = VideoData(shards=shards, batch_size=GLOBAL_BATCH // world, lanes=LANES, seed=3, workers=0, val_videos=2)
    lr = LR * 1.01 if fault == "learning rate 1% larger" else LR
    losses = LOSSES.get(compressor)
    budgets = [0.4, 0.6] if "+" in compressor else [8, 0.25]
    module = Faulty(
        compressor, budgets[0], PARAMS[compressor], host, budgets, lr=lr, losses=losses, warmup=0.2, **settings
    )
    module.fault = fault
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        max_steps=STEPS,
        accumulate_grad_batches=ACCUMULATED,
        gradient_clip_val=CLIP[compressor],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[SaveWeights(folder, f"{compressor}-{label or fault or strategy}")],
    )
    config = getattr(trainer.strategy, "config", None)
    if isinstance(config, dict):
        config["train_micro_batch_size_per_gpu"] = GLOBAL_BATCH // world
    trainer.fit(module, datamodule=data)


def train_all(
    hosts: Mapping[bool, str], shards: str, folder: str, trainings: Sequence[tuple[str, str]], faults: Mapping[str, str]
) -> None:
    """Run the trainings one after the other.

    Args:
        hosts: by whether the compressor is a chain, whose last stage acts inside the language model.
        trainings: pairs of compressor and strategy.
        faults: members of ``FAULTS`` by compressor; each is a further training.
    """
    filter_warnings()
    register_strategies()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    world = os.environ.get("WORLD_SIZE", "1")
    for compressor, strategy in trainings:
        for fault in ("", faults.get(compressor)):
            if fault is not None:
                os.environ["WORLD_SIZE"] = world  # Lightning clears it after each training
                train(hosts["+" in compressor], shards, Path(folder), compressor, strategy, int(world), fault)
                print(f"{compressor} {strategy} {fault} done", flush=True)


def train_checkpointed(host: str, shards: str, folder: str, compressor: str, strategies: Sequence[str]) -> None:
    """Train with LoRA under each strategy, without and with activation checkpointing."""
    filter_warnings()
    register_strategies()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    world = os.environ.get("WORLD_SIZE", "1")
    for strategy in strategies:
        for on in (False, True):
            os.environ["WORLD_SIZE"] = world
            lora = LoraSettings(r=2, dropout=0.1, targets=["q_proj", "v_proj", "o_proj", "down_proj"], lr=LR)
            settings: dict[str, Any] = {"lora": lora, "checkpointing": on, "label": f"{strategy}-{on}"}
            train(host, shards, Path(folder), compressor, strategy, int(world), **settings)
            print(f"{strategy} {on} done", flush=True)
