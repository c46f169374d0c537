"""A script, not a test: framefold with DeepSpeed made to run on the CPU. Usage: distributed_fit.py fit ...

At the end the trained weights are saved to $FRAMEFOLD_TEST_WEIGHTS. Engine, ZeRO's optimizer and checkpoints,
accumulation and clipping are DeepSpeed's own; only what Lightning's strategy takes for granted about CUDA is replaced.
For development: nothing is gained by ZeRO on one CPU.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed.comm.torch
import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import DeepSpeedStrategy, StrategyRegistry

from framefold.__main__ import main
from framefold.training.module import CompressorModule


class DeepSpeedOnCPU(DeepSpeedStrategy):
    """DeepSpeed over gloo."""

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()  # leaves out the check for a CUDA accelerator

    def setup_distributed(self) -> None:
        deepspeed.comm.torch.build_shm_op = lambda: None  # shared-memory collectives: minutes of C++; gloo does it too
        reset_seed()  # leaves out the check of device indices, which CPUs do not have
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu", 0)  # with an index: the engine compares it


for stage in (1, 2, 3):
    StrategyRegistry.register(
        f"deepspeed_cpu_stage_{stage}",
        DeepSpeedOnCPU,
        stage=stage,
        offload_optimizer=False,
        exclude_frozen_parameters=True,
        process_group_backend="gloo",
    )


if __name__ == "__main__":
    weights = os.environ["FRAMEFOLD_TEST_WEIGHTS"]

    def on_train_end(self: CompressorModule) -> None:
        if self.global_rank == 0:
            lora = {} if self.lora is None else self.lora.state()
            trained = {f"compressor.{key}": value for key, value in self.compressor.state_dict().items()}
            torch.save(trained | {f"lora.{key}": value for key, value in lora.items()}, weights)

    CompressorModule.on_train_end = on_train_end  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
