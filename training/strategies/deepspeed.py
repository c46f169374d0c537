"""Strategies of training beside Lightning's, and what training under them takes.

``deepspeed_stage_2`` and Lightning's other names stand for Lightning's strategies with two changes: frozen weights stay
out of checkpoints, and steps are made where every other strategy makes them. ``deepspeed_cpu_stage_1`` to ``_3`` are
for development and tests, never for training: ZeRO on CPUs gains nothing. Engine, ZeRO's optimizer and checkpoints,
accumulation and clipping are DeepSpeed's own there too; only what Lightning takes for granted about CUDA is replaced.
``fsdp2`` is in :mod:`~framefold.training.strategies.fsdp2`.
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

from .fsdp2 import FSDP2, shard


class DeepSpeed(DeepSpeedStrategy):
    """Lightning's, whose checkpoints leave frozen weights out, and which steps at the end of an epoch as others do.

    Lightning lets DeepSpeed count micro-batches, and that counts on over the end of an epoch: accumulated batches would
    be others than those of DDP. Here Lightning counts, and ``CompressorModule.on_before_backward`` tells the engine.
    """

    def __init__(self, exclude_frozen_parameters: bool = True, **settings: Any) -> None:
        super().__init__(exclude_frozen_parameters=exclude_frozen_parameters, **settings)

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

    name_prefix = "deepspeed_cpu_"  # of its names on the command line, see checkpoint.strategy_name

    def __init__(self, **settings: Any) -> None:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # deepspeed looks when it is imported, which super does
        super().__init__(**settings)
        zero = self.config.get("zero_optimization", {}) if isinstance(self.config, dict) else {}
        if zero.get("stage") == 3:  # by default it would leave all of a tiny model whole
            zero.setdefault("stage3_param_persistence_threshold", 0)

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


def register_strategies() -> None:
    """Make the names known to ``--trainer.strategy``; every rank does this for itself."""
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
        StrategyRegistry.register("fsdp2", FSDP2, description="compressor and language model spread over the ranks")


def configure_deepspeed(strategy: Any, batch_size: int) -> None:
    """What DeepSpeed is told in every run.

    Args:
        batch_size: of a rank; it would ask our loader for a batch sampler.
    """
    if not isinstance(strategy, DeepSpeedStrategy) or not isinstance(strategy.config, dict):
        return
    strategy.exclude_frozen_parameters = True
    strategy.config.setdefault("train_micro_batch_size_per_gpu", batch_size)
    strategy.config.setdefault("zero_force_ds_cpu_optimizer", False)  # adapters are small: torch's AdamW will do


def prepare_module(module: Any) -> None:
    """Get a module that is set up ready for its strategy, before its optimizer is made.

    Raises:
        ConfigError: the strategy cannot train it.
    """
    strategy = module.trainer.strategy
    if isinstance(strategy, FSDP2):
        shard(module)
    elif isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
        raise ConfigError("of FSDP and tensor parallelism, FSDP2 is what trains a compressor: --trainer.strategy fsdp2")


def keep_compressor_gathered(module: Any) -> None:
    """Keep ZeRO-3 away from single layers outside of the language model; nothing happens under other strategies.

    A compressor returns no bare tensors, so ZeRO-3 does not see when to gather it for its backward; see
    :func:`~framefold.adapters.hosts.prompt.zero3.keep_gathered`. And ZeRO-3 gathers a layer whenever it is run, on all
    ranks together: the vision encoder runs once a video, a query-aware compressor once a question, and of those ranks
    have unequally many. So the compressor is gathered for whole steps, and the vision encoder, which is frozen, for
    good.
    """
    if not hasattr(next(module.model.parameters()), "ds_id"):
        return
    beside = list(_beside_language(module.model))
    for part in [module.compressor, *beside]:
        keep_gathered(module, part.parameters())
        for layer in part.modules():
            _let_go(layer)
    for parameter in (parameter for part in beside for parameter in part.parameters()):
        parameter.ds_persist = True  # type: ignore[attr-defined]


def _beside_language(model: Any) -> Iterator[nn.Module]:
    """The largest parts of a host that neither are nor hold its decoder or its output layer."""
    language = {model.get_decoder(), model.get_output_embeddings()}
    ways = [model]
    for module in ways:
        for child in module.children():
            if not language & set(child.modules()):
                yield child
            elif child not in language:
                ways.append(child)


def _let_go(layer: nn.Module) -> None:
    """Take DeepSpeed's hooks off a layer."""
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        for key, hook in list(hooks.items()):
            if str(getattr(hook, "__module__", "")).startswith("deepspeed."):
                del hooks[key]
