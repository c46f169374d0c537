"""DeepSpeed as this package uses it, on CUDA and, for tests, on the CPU.

``deepspeed_stage_2`` and Lightning's other names stand for Lightning's strategies with two changes: frozen weights stay
out of checkpoints, and steps are made where every other strategy makes them. ``deepspeed_cpu_stage_1`` to ``_3`` are
for development and tests, never for training: ZeRO on CPUs gains nothing. Engine, ZeRO's optimizer and checkpoints,
accumulation and clipping are DeepSpeed's own there too; only what Lightning takes for granted about CUDA is replaced.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, StrategyRegistry

# ZeRO-3 decides by the order of past calls what it fetches ahead and keeps. Ranks with different numbers of videos and
# questions have different orders, and would wait for each other for ever (seen with qtsplus).
IN_STEP = ("stage3_max_reuse_distance", "stage3_prefetch_bucket_size")


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's, whose checkpoints leave frozen weights out, and which steps at the end of an epoch as others do.

    Lightning lets DeepSpeed count micro-batches, and that counts on over the end of an epoch: accumulated batches would
    be others than those of DDP. Here Lightning counts, and ``CompressorModule.on_before_backward`` tells the engine.
    """

    def __init__(self, exclude_frozen_parameters: bool = True, **settings: Any) -> None:
        super().__init__(exclude_frozen_parameters=exclude_frozen_parameters, **settings)
        if isinstance(self.config, dict) and (zero := self.config.get("zero_optimization", {})).get("stage") == 3:
            for name in IN_STEP:
                zero.setdefault(name, 0)

    @property
    def handles_gradient_accumulation(self) -> bool:
        """Lightning does."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """ZeRO sums gradients up where they lie; it knows no backward without communication."""
        yield


class DeepSpeedOnCPU(DeepSpeed):
    """DeepSpeed over gloo, for development and tests."""

    def __init__(self, **settings: Any) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed looks when it is imported, which super does
        super().__init__(**settings)

    def setup_environment(self) -> None:
        """As Lightning's, without the check for a CUDA accelerator."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """As Lightning's, without the check of device indices, which CPUs do not have."""
        module: Any = importlib.import_module("deepspeed.comm.torch")
        module.build_shm_op = lambda: None  # shared-memory collectives: minutes of C++; gloo does it too
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """With an index: the engine compares it."""
        return torch.device("cpu", 0)


def register() -> None:
    """Make the names known to ``--trainer.strategy``; every rank does this for itself."""
    for name in [name for name in StrategyRegistry if name.startswith("deepspeed") and "cpu" not in name]:
        entry = StrategyRegistry[name]
        if entry["strategy"] is DeepSpeedStrategy:
            StrategyRegistry.register(name, DeepSpeed, entry["description"], override=True, **entry["init_params"])
    for stage in (1, 2, 3):
        name = f"deepspeed_cpu_stage_{stage}"
        if name not in StrategyRegistry:
            StrategyRegistry.register(
                name,
                DeepSpeedOnCPU,
                description=f"DeepSpeed ZeRO stage {stage} on the CPU, for development and tests",
                stage=stage,
                process_group_backend="gloo",
            )


def name_of(strategy: Any) -> str:
    """How a strategy is called on the command line."""
    if isinstance(strategy, DeepSpeedStrategy):
        stage = strategy.config.get("zero_optimization", {}).get("stage", 0) if isinstance(strategy.config, dict) else 0
        return f"deepspeed_{'cpu_' if isinstance(strategy, DeepSpeedOnCPU) else ''}stage_{stage}"
    if isinstance(strategy, ModelParallelStrategy):
        return "fsdp2"
    return "ddp" if isinstance(strategy, DDPStrategy) else type(strategy).__name__
