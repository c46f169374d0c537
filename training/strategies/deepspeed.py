"""Training strategies besides Lightning's own, and what training under them requires.

``deepspeed_stage_2`` and Lightning's other names select Lightning's strategies with two changes: checkpoints exclude
frozen weights, and optimizer steps happen where all other strategies make them. ``deepspeed_cpu_stage_1`` to ``_3`` are
for development and tests only: ZeRO gains nothing on CPUs. Engine, ZeRO optimizer, checkpoints, accumulation and
clipping are DeepSpeed's own there as well; only Lightning's assumptions about CUDA are replaced. ``fsdp2`` is in
:mod:`~framefold.training.strategies.fsdp2`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    StrategyRegistry,
)
from torch import nn

from framefold.adapters.hosts.prompt.zero3 import keep_gathered
from framefold.errors import ConfigError

from .fsdp2 import FSDP2, shard_module


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's strategy, but checkpoints exclude frozen weights, and every epoch ends with an optimizer step.

    By default DeepSpeed counts micro-batches, and its count continues across epochs, so that other batches would be
    accumulated than under DDP. Here Lightning counts, and ``CompressorModule.on_before_backward`` informs the engine.
    """

    def __init__(self, exclude_frozen_parameters: bool = True, **settings: Any) -> None:
        super().__init__(exclude_frozen_parameters=exclude_frozen_parameters, **settings)

    @property
    def handles_gradient_accumulation(self) -> bool:
        """False: Lightning accumulates."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Do nothing: ZeRO has no backward pass without communication."""
        yield


class DeepSpeedOnCPU(DeepSpeed):
    """DeepSpeed over gloo, for development and tests."""

    name_prefix = "deepspeed_cpu_"  # of the names on the command line, see checkpoint.strategy_name

    def __init__(self, **settings: Any) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is imported, which super() does
        super().__init__(**settings)
        zero = self.config.get("zero_optimization", {}) if isinstance(self.config, dict) else {}
        if zero.get("stage") == 3:  # by default, a tiny model would not be partitioned at all
            zero.setdefault("stage3_param_persistence_threshold", 0)

    def setup_environment(self) -> None:
        """Set up as Lightning does, without the check for a CUDA accelerator."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Set up as Lightning does, without the check of device indices, which CPUs do not have."""
        module: Any = importlib.import_module("deepspeed.comm.torch")
        module.build_shm_op = lambda: None  # compiling shared-memory collectives takes minutes; gloo replaces them
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """The CPU with an index, which the engine compares."""
        return torch.device("cpu", 0)


def register_strategies() -> None:
    """Register the names for ``--trainer.strategy``; every rank must call this."""
    for name in [name for name in StrategyRegistry if name.startswith("deepspeed") and "cpu" not in name]:
        entry = StrategyRegistry[name]
        if entry["strategy"] is DeepSpeedStrategy:
            StrategyRegistry.register(name, DeepSpeed, entry["description"], override=True, **entry["init_params"])
    for stage in (1, 2, 3):
        name = f"{DeepSpeedOnCPU.name_prefix}stage_{stage}"
        if name not in StrategyRegistry:
            StrategyRegistry.register(
                name,
                DeepSpeedOnCPU,
                description=f"DeepSpeed ZeRO stage {stage} on the CPU, for development and tests",
                stage=stage,
                process_group_backend="gloo",
            )
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register("fsdp2", FSDP2, description="compressor and language model sharded over the ranks")


def configure_deepspeed(strategy: Any, batch_size: int) -> None:
    """Set the DeepSpeed options that every run needs; do nothing for other strategies.

    Args:
        strategy: strategy of the trainer.
        batch_size: videos per rank; DeepSpeed would look for it in a batch sampler, which our loader does not have.
    """
    if not isinstance(strategy, DeepSpeedStrategy) or not isinstance(strategy.config, dict):
        return
    strategy.exclude_frozen_parameters = True
    strategy.config.setdefault("train_micro_batch_size_per_gpu", batch_size)
    strategy.config.setdefault("zero_force_ds_cpu_optimizer", False)  # adapters are small enough for torch's AdamW


def prepare_module(module: Any) -> None:
    """Prepare a module for its strategy, after its setup and before its optimizer is created.

    Raises:
        ConfigError: the strategy cannot train a compressor.
    """
    strategy = module.trainer.strategy
    if isinstance(strategy, FSDP2):
        shard_module(module)
    elif isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
        raise ConfigError("of FSDP and tensor parallelism, only FSDP2 trains a compressor: --trainer.strategy fsdp2")


def exclude_from_zero3(module: Any) -> None:
    """Exclude compressor and vision side from ZeRO-3's gathering layer by layer; do nothing under other strategies.

    A compressor does not return plain tensors, so ZeRO-3 does not know when to gather it for its backward pass; see
    :func:`~framefold.adapters.hosts.prompt.zero3.keep_gathered`. Also, ZeRO-3 gathers a layer on all ranks together
    whenever the layer runs. The vision encoder runs once per video and a query-aware compressor once per question, and
    the ranks have different numbers of them. Therefore the compressor is gathered for whole steps, and the vision side,
    which is frozen, permanently.
    """
    if not hasattr(next(module.model.parameters()), "ds_id"):
        return
    vision = list(_outside_language_model(module.model))
    for part in [module.compressor, *vision]:
        keep_gathered(module, part.parameters())
        for layer in part.modules():
            _remove_deepspeed_hooks(layer)
    for parameter in (parameter for part in vision for parameter in part.parameters()):
        parameter.ds_persist = True  # type: ignore[attr-defined]


def _outside_language_model(model: Any) -> Iterator[nn.Module]:
    """Yield the largest modules of a host that contain neither its decoder nor its output layer."""
    language = {model.get_decoder(), model.get_output_embeddings()}
    ancestors = [model]
    for module in ancestors:
        for child in module.children():
            if not language & set(child.modules()):
                yield child
            elif child not in language:
                ancestors.append(child)


def _remove_deepspeed_hooks(layer: nn.Module) -> None:
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        for key, hook in list(hooks.items()):
            if str(getattr(hook, "__module__", "")).startswith("deepspeed."):
                del hooks[key]
