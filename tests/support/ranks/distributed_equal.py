"""A script, not a test: many trainings in one process, or in one pair of processes.

Usage: distributed_equal.py HOST SHARDS OUT COMPRESSORS STRATEGIES, with RANK and WORLD_SIZE in the environment. For
each compressor and strategy the trained weights go to OUT/<compressor>-<strategy>.pt.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch

from framefold.training.datamodule import VideoData
from framefold.training.fit.session import quiet
from framefold.training.module import CompressorModule
from framefold.training.strategies.deepspeed import register_strategies

STEPS, LANES, GLOBAL = 20, 2, 2
PARAMS: dict[str, dict] = {
    "storm": {"layers": 1, "scan": "temporal", "headdim": 8, "d_state": 8},
    "qtsplus": {"heads": 4, "reencode_layers": 1},
    "fila": {"members": "cluster", "scene_goal": 4},
}
LOSSES = {"qtsplus": {"answer": 1.0, "evidence": 1.0, "kl": 0.5}, "fila": {"kl": 1.0}}
CLIP = {"storm": 0.05, "qtsplus": 0.5, "fila": 0.05}  # below the norms of these gradients


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter that may be spread over the ranks."""
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    value = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return value.detach().clone()


class Kept(pl.Callback):
    """Keeps the weights before and after training."""

    def __init__(self, out: Path, name: str) -> None:
        self.out, self.name = out, name

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._keep(trainer, module, f"{self.name}-start.pt")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._keep(trainer, module, f"{self.name}.pt")

    def _keep(self, trainer: pl.Trainer, module: pl.LightningModule, file: str) -> None:
        weights = {name: whole(p) for name, p in module.named_parameters() if p.requires_grad}
        if trainer.is_global_zero:
            torch.save(weights, self.out / file)


def train(host: str, shards: str, out: Path, compressor: str, strategy: str, world: int) -> None:
    pl.seed_everything(1, verbose=False)
    data = VideoData(shards=shards, batch_size=GLOBAL // world, lanes=LANES, seed=3, workers=0, val_videos=2)
    module = CompressorModule(
        compressor, 8, PARAMS[compressor], host, [8, 0.25], lr=0.02, losses=LOSSES.get(compressor), warmup=0.2
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        max_steps=STEPS,
        accumulate_grad_batches=2,
        gradient_clip_val=CLIP[compressor],
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Kept(out, f"{compressor}-{strategy}")],
    )
    config = getattr(trainer.strategy, "config", None)
    if isinstance(config, dict):
        config["train_micro_batch_size_per_gpu"] = GLOBAL // world
    trainer.fit(module, datamodule=data)


def main() -> None:
    host, shards, out, compressors, strategies = sys.argv[1:]
    quiet()
    register_strategies()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    world = int(os.environ["WORLD_SIZE"])
    for strategy in strategies.split(","):
        for compressor in compressors.split(","):
            os.environ["WORLD_SIZE"] = str(world)  # Lightning clears it after each training
            train(host, shards, Path(out), compressor, strategy, world)
            print(f"{compressor} {strategy} done", flush=True)


if __name__ == "__main__":
    main()
