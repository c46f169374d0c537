"""Prediction of what a training needs on each GPU, from the configuration of its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from framefold.adapters.core.budget import Budget
from framefold.training.frozen_host.locate import find_host
from framefold.training.lora_settings import LoraSettings
from framefold.training.memory.checkpointing import checkpoint_layers
from framefold.training.start import resolve_start

from .empty_host import count_parameters, empty_host
from .no_values import NoValues
from .per_gpu import BUCKET, Weights, divide
from .step import Step
from .tower import TOWER
from .traced import traced
from .workload import Workload

GB = 10**9

STAYING = ("weights", "trained weights", "optimizer", "gradients")  # parts that are there between steps

SLOWEST = 0.5  # share of the given FLOP/s that matrix products reach at the upper end of the range of time


@dataclass(frozen=True)
class Setup:
    """A training whose needs are predicted; the fields are options of ``framefold plan``.

    Attributes:
        bucket: elements of a buffer of ZeRO-2.
    """

    host: str
    compressor: str
    budget: Budget
    params: Mapping[str, Any] | None
    lora: LoraSettings | None
    work: Workload
    strategy: str
    gpus: int
    host_dtype: str
    host_bits: int | None
    attention: str
    checkpointing: bool
    bucket: int = BUCKET


@dataclass(frozen=True)
class Plan:
    """What one step of a training needs.

    Attributes:
        visual_tokens: of a video before compression.
        kept_tokens: of a video after it, as a mean over the layers of the language model.
        parameters: numbers of parameters by part.
        memory: bytes of each GPU by part, at the peak.
        peak_in: what runs at the peak: "tower" or "language model".
        flops: operations of a step on each GPU, by part.
        traffic: bytes that a step reads and writes on each GPU, if no operations are fused.
        seconds: lower and upper end of the time of a step; None without a rate.
        notes: what the prediction leaves out.
    """

    visual_tokens: int
    kept_tokens: float
    parameters: dict[str, int]
    memory: dict[str, int]
    peak_in: str
    flops: dict[str, int]
    traffic: int
    seconds: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of each GPU at the peak."""
        return sum(self.memory.values())

    def as_dict(self) -> dict[str, Any]:
        """Return the prediction with names of its units, for JSON."""
        return {**asdict(self), "total_bytes": self.total}


def predict_needs(setup: Setup, tflops: float | None = None, bandwidth: float | None = None) -> Plan:
    """Predict what a training needs, by running one step of it on tensors without values.

    Args:
        setup: of the training.
        tflops: rate of matrix products of a GPU, in 10^12 operations per second.
        bandwidth: of its memory, in 10^9 bytes per second.
    """
    start = resolve_start(setup.compressor, setup.budget, setup.params, setup.lora)
    host = empty_host(find_host(setup.host), setup.host_dtype, setup.attention)
    with torch.device("meta"):
        host.family.create_parameters(start.compressor, host.model)
        lora = start.inject_lora(host, setup.host)
    if setup.checkpointing:
        checkpoint_layers(host.model)
    values = NoValues()
    for module in (host.model, start.compressor):
        values.convert(module)
    compressor, notes = traced(start.compressor, host, setup.work, values)
    trained = [one for module in (host.model, compressor) for one in module.parameters() if one.requires_grad]
    cost = Step(host, compressor, trained, setup.work).run(values)
    weights = Weights.of(host, compressor, setup.host_bits)
    if setup.work.features:
        weights = replace(weights, tower=0)  # training on features drops it
    mixed = setup.work.precision == "bf16-mixed"
    moments = divide(cost, weights, setup.strategy, setup.gpus, mixed, setup.bucket)
    memory = max(moments, key=lambda moment: sum(moment.values()))
    counts = {**count_parameters(host), "compressor": sum(one.numel() for one in compressor.parameters())}
    counts |= {"LoRA": sum(one.numel() for one in lora.parameters)} if lora else {}
    seconds = None if tflops is None else step_seconds(sum(cost.flops.values()), cost.traffic, tflops, bandwidth)
    where = TOWER if memory is moments[0] and len(moments) > 1 else "language model"
    return Plan(
        cost.visual_tokens, cost.kept_tokens, counts, memory, where, cost.flops, cost.traffic, seconds, tuple(notes)
    )


def step_seconds(flops: float, traffic: float, tflops: float, bandwidth: float | None) -> tuple[float, float]:
    """Return the lower and the upper end of the time of a step.

    Args:
        flops: operations of matrix products.
        traffic: bytes that are read and written.
        tflops: 10^12 operations per second.
        bandwidth: 10^9 bytes per second; None leaves out the time of reading and writing.
    """
    products = flops / (tflops * 1e12)
    if bandwidth is None:
        return products, products / SLOWEST
    moves = traffic / (bandwidth * 1e9)
    return max(products, moves), products + moves
