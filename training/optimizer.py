"""Parameter groups of AdamW, and the schedules of the learning rate and of the weights of losses in training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.nn import Parameter

LossWeight = float | list[float]  # two numbers: at the start and at the end of the run


def parameter_groups(parameters: Iterable[Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return groups of the trainable parameters; only those of two or more dimensions have weight decay."""
    trained = [p for p in parameters if p.requires_grad]
    decayed, others = ([p for p in trained if (p.ndim > 1) == matrix] for matrix in (True, False))
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}, {"params": others}]
    return [{**group, "lr": lr} for group in groups if group["params"]]


def total_steps(trainer: Any) -> float:
    """Return the number of optimizer steps of the whole run, infinity if it has no end.

    Lightning's own number takes the gradient accumulation of the current epoch for that of all epochs.
    """
    steps = float(trainer.estimated_stepping_batches)  # also creates the loader
    schedules = [each for each in trainer.callbacks if isinstance(each, GradientAccumulationScheduler)]
    batches, epochs = trainer.num_training_batches, trainer.max_epochs
    if not schedules or epochs == -1 or not math.isfinite(batches):
        return steps
    accumulated = [schedules[0].get_accumulate_grad_batches(epoch) for epoch in range(max(1, epochs))]
    steps = sum(math.ceil(batches / count) for count in accumulated)
    return min(steps, trainer.max_steps) if trainer.max_steps != -1 else steps


def warmup_cosine(step: int, steps: float, warmup: float, end: float) -> float:
    """Return the factor on the learning rate: a linear warm-up, then a cosine.

    Args:
        step: from 0.
        steps: of the run; if not finite, the factor is 1.
        warmup: fraction of the steps over which the rate rises.
        end: last factor.
    """
    if not math.isfinite(steps):
        return 1.0
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, steps - rise))
    return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2


def weights_at(weights: Mapping[str, LossWeight], progress: float) -> dict[str, float]:
    """Return the weights at a point of the run, from 0 at its start to 1 at its end."""
    done = min(1.0, max(0.0, progress))
    pairs = {name: weight if isinstance(weight, list) else [weight, weight] for name, weight in weights.items()}
    return {name: first if first == last else first + (last - first) * done for name, (first, last) in pairs.items()}
