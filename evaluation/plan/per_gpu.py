"""Memory of one GPU: the step of one process, with the weights and buffers as a strategy divides them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn

from framefold.adapters.base.compressor import Compressor
from framefold.training.frozen_host.host import Host

from .step import GRADIENTS, OPTIMIZER, StepCost

Strategy = Literal["single", "ddp", "zero_2", "zero_3", "fsdp2"]

STRATEGIES: tuple[str, ...] = get_args(Strategy)

BUCKET = 200_000_000  # elements of one of the two buffers in which ZeRO-2 reduces gradients, Lightning's default

LIVE = 1_000_000_000  # elements that ZeRO-3 keeps gathered at most, DeepSpeed's default

QUANTISED = 0.5 + 4 / 64  # bytes of a weight in 4 bits, with a scale in 32 bits for each block of 64


@dataclass(frozen=True)
class Weights:
    """Bytes of the weights of a process that holds all of them.

    Attributes:
        linear: of the linear layers of the decoder, which FSDP2 and quantisation take.
        largest: of the largest of them, in the dtype of the computation.
        language: of everything else in the language model, with the output layer.
        tower: of the vision side.
        trained: of the compressor and LoRA.
        element: bytes of an element of the host.
    """

    linear: int
    largest: int
    language: int
    tower: int
    trained: int
    element: int

    @classmethod
    def of(cls, host: Host, compressor: Compressor, bits: int | None) -> Weights:
        """Count the weights of a host and a compressor.

        Args:
            host: with LoRA, if it is trained.
            compressor: with all of its weights.
            bits: 4 for linear layers of the decoder in 4 bits.
        """
        family, seen = host.family, set[int]()
        layers = [part for layer in family.decoder_layers(host.model) for part in layer.modules()]
        frozen = [one.weight for one in layers if isinstance(one, nn.Linear) and not one.weight.requires_grad]
        linear = sum(map(_nbytes, frozen))
        largest = max(map(_nbytes, frozen), default=0)
        trained = sum(map(_nbytes, compressor.parameters()))
        tower = language = 0
        for name, one in host.model.named_parameters():
            if id(one) in seen:
                continue
            seen.add(id(one))
            if one.requires_grad:
                trained += one.nbytes
            elif f".{family.language}." in f".{name}" or name.startswith("lm_head"):
                language += one.nbytes
            else:
                tower += one.nbytes
        element = host.model.dtype.itemsize
        language -= linear
        if bits == 4:
            linear = int(linear / element * QUANTISED)
        return cls(linear, largest, language, tower, trained, element)


def _nbytes(tensor: Any) -> int:
    return int(tensor.nbytes)


def divide(
    cost: StepCost, weights: Weights, strategy: str, gpus: int, mixed: bool, bucket: int
) -> list[dict[str, int]]:
    """Return the bytes of one GPU by part: at the peak of the vision encoder, and at the peak of everything else.

    Args:
        cost: of the step of a process that is alone.
        weights: of that process.
        strategy: one of ``STRATEGIES``.
        gpus: number of GPUs.
        mixed: whether the trained weights are computed in 16 bits.
        bucket: elements of a buffer of ZeRO-2.
    """
    held = _held(weights, strategy, gpus, mixed, bucket)
    return [{**moment, **held} for moment in (cost.tower, cost.peak) if moment]


def _held(w: Weights, strategy: str, gpus: int, mixed: bool, bucket: int) -> dict[str, int]:
    """Return the bytes of what a strategy changes: weights, gradients, optimizer and its buffers."""
    own = {"weights": w.linear + w.language + w.tower, "trained weights": w.trained}
    if strategy == "single":
        return own
    if strategy == "ddp":
        return {**own, "buffers": w.trained}
    element = 2 if mixed else 4
    count = w.trained // 4
    if strategy == "fsdp2":
        gathered = 2 * w.largest + w.trained
        frozen = w.linear // gpus + w.language + w.tower
        state = {GRADIENTS: w.trained // gpus, OPTIMIZER: 2 * w.trained // gpus}
        return {"weights": frozen, "trained weights": w.trained // gpus, "buffers": gathered, **state}
    state = {GRADIENTS: count * element // gpus, OPTIMIZER: (3 if mixed else 2) * w.trained // gpus}
    if strategy == "zero_2":
        buffers = 2 * bucket * element
        return {"weights": own["weights"], "trained weights": count * element, "buffers": buffers, **state}
    sharded = w.linear + w.language
    gathered = min(sharded, LIVE * w.element) + count * element
    return {
        "weights": sharded // gpus + w.tower, "trained weights": count * element // gpus, "buffers": gathered, **state,
    }  # fmt: skip
