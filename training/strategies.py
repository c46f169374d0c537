"""Strategies beside Lightning's: DeepSpeed on the CPU.

``deepspeed_cpu_stage_1`` to ``_3`` are for development and tests, never for training: ZeRO on CPUs gains nothing.
Engine, ZeRO's optimizer and checkpoints, accumulation and clipping are DeepSpeed's own; only what Lightning's strategy
takes for granted about CUDA is replaced.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, StrategyRegistry


class DeepSpeedOnCPU(DeepSpeedStrategy):
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
