"""One training step of one process on tensors without values: its tokens, memory by part, and operations.

It runs the functions that training runs, so what it counts needs no formula for any host or compressor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.gradients import zero_times_parameters
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.data.shards.encoded import EncodedSample
from framefold.evaluation.metrics.flops import count_flops
from framefold.evaluation.metrics.tensor_ledger import TensorLedger
from framefold.training.frozen_host.batch import answer_questions, collate_encoded, mean_visual_tokens
from framefold.training.frozen_host.host import Host
from framefold.training.losses import compute_losses, total_loss
from framefold.training.optimizer import parameter_groups

from .empty_host import empty_sample, longer_clip
from .no_values import NoValues
from .tower import TOWER, measure_tower
from .workload import Workload

ACTIVATIONS, COMPRESSOR, LOGITS = "activations", "compressor", "logits"

GRADIENTS, OPTIMIZER, REST = "gradients", "optimizer", "language model and compressor"


@dataclass(frozen=True)
class StepCost:
    """What a step of one process needs, besides the weights and what the strategy adds.

    Attributes:
        visual_tokens: of a video before compression.
        kept_tokens: of a video after it, as a mean over the layers of the language model.
        tower: bytes by part at the peak of the vision encoder, which runs before everything else.
        peak: bytes by part at the peak of everything else.
        flops: of the matrix products, convolutions and attention, by part.
        traffic: bytes that are read and written.
    """

    visual_tokens: int
    kept_tokens: float
    tower: dict[str, int]
    peak: dict[str, int]
    flops: dict[str, int]
    traffic: int


class Step:
    """Runs one step.

    Args:
        host: frozen, without values.
        compressor: without values.
        trained: all weights that are trained; without any, only the forward pass runs.
        work: what the step works on.
    """

    def __init__(self, host: Host, compressor: Compressor, trained: Sequence[nn.Parameter], work: Workload) -> None:
        self.host, self.compressor, self.trained, self.work = host, compressor, list(trained), work
        weights = [*host.model.parameters(), *host.model.buffers(), *compressor.parameters(), *compressor.buffers()]
        self.ledger = TensorLedger(weights, ACTIVATIONS)
        self.tokens = (0, 0.0)

    def run(self, values: NoValues) -> StepCost:
        """Run the step as the second one of a training: the optimizer has its state, and gradients are left over.

        Args:
            values: the mode that the tensors without values belong to.
        """
        ledger = self.ledger
        optimizer = torch.optim.AdamW(parameter_groups(self.trained, 1e-3, 0.0)) if self.trained else None
        with values, ledger, self._labelled():
            if optimizer is not None:
                self._first_step(optimizer)
            clip, tower = measure_tower(self.host, self.work, values, ledger, self.compressor.needs_attention)
            ledger.part = ACTIVATIONS
            encoded = [empty_sample(self.host, self.work, self._copy(clip, values)) for _ in range(self.work.batch)]
            ledger.forget_peak()
            before = ledger.traffic
            flops = count_flops(lambda: self._train(encoded, optimizer))
        held = {part: size for part, size in ledger.peak_parts.items() if size}
        batch = 0 if self.work.features else self.work.batch
        return StepCost(
            *self.tokens,
            {} if self.work.features else {**self._state(), TOWER: tower.peak + (batch - 1) * tower.kept},
            held,
            {TOWER: batch * tower.flops, REST: flops},
            ledger.traffic - before + batch * tower.traffic,
        )

    def _copy(self, clip: Encoded, values: NoValues) -> Encoded:
        return longer_clip(clip, 1, values) if self.work.batch > 1 else clip

    def _state(self) -> dict[str, int]:
        """Return the bytes of optimizer state and gradients, which are there while the vision encoder runs."""
        size = sum(weight.nbytes for weight in self.trained)
        return {GRADIENTS: size, OPTIMIZER: 2 * size} if size else {}

    def _first_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.ledger.part = GRADIENTS
        for weight in self.trained:
            weight.grad = torch.empty_like(weight)
        self.ledger.part = OPTIMIZER
        optimizer.step()

    def _train(self, encoded: list[EncodedSample], optimizer: torch.optim.Optimizer | None) -> None:
        ledger = self.ledger
        with nullcontext() if optimizer else torch.no_grad():
            loss = self._forward(encoded)
        if optimizer is None:
            return
        optimizer.zero_grad()  # after the forward pass, as in Lightning
        ledger.part = ACTIVATIONS
        loss.backward()
        ledger.part = OPTIMIZER
        optimizer.step()
        ledger.part = ACTIVATIONS

    def _forward(self, encoded: list[EncodedSample]) -> Tensor:
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.work.precision == "bf16-mixed")
        with autocast:
            batch = collate_encoded(self.host, encoded)
            answers = answer_questions(self.host, self.compressor, batch)
            parts = compute_losses(self.host, batch, answers, {})
            self.tokens = len(batch.encoded[0]), mean_visual_tokens(self.host, answers.prepared)
            return total_loss(parts, {}) + zero_times_parameters(self.compressor)

    @contextmanager
    def _labelled(self) -> Iterator[None]:
        """Count what the compressor and the output layer create, and gradients, to parts of their own."""
        head = self.host.model.get_output_embeddings()
        hooks: list[Any] = [
            self.compressor.register_forward_pre_hook(lambda *_: self._start(COMPRESSOR)),
            self.compressor.register_forward_hook(lambda *_: self._start(ACTIVATIONS)),
            head.register_forward_pre_hook(lambda *_: self._start(LOGITS)),  # and the loss after it
            self.host.model.base_model.register_forward_pre_hook(lambda *_: self._start(ACTIVATIONS)),
        ]
        hooks += [weight.register_post_accumulate_grad_hook(self._note_gradient) for weight in self.trained]
        with ExitStack() as stack:
            for hook in hooks:
                stack.callback(hook.remove)
            yield

    def _start(self, part: str) -> None:
        self.ledger.part = part

    def _note_gradient(self, weight: Any) -> None:
        self.ledger.label(GRADIENTS, [weight.grad])
