"""Accuracy per question type, accumulated over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from framefold.data.synthetic.questions import QUESTION_TYPES

OTHER = "other"  # question types that are not those of synthetic videos


class TypeAccuracy(Metric):
    """Accuracy of each question type, and their unweighted (macro) mean."""

    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, types: Sequence[str] = QUESTION_TYPES) -> None:
        super().__init__()
        self.types = (*types, OTHER)
        self.add_state("correct", torch.zeros(len(self.types)), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(self.types)), dist_reduce_fx="sum")

    def update(self, correct: Tensor, types: Sequence[str]) -> None:
        """Add answers.

        Args:
            correct: (R,) bool.
            types: question type of each answer.
        """
        index = {name: i for i, name in enumerate(self.types)}
        rows = torch.tensor([index.get(name, index[OTHER]) for name in types], device=self.correct.device)
        self.correct.index_add_(0, rows, correct.to(self.correct))
        self.total.index_add_(0, rows, torch.ones_like(correct, dtype=self.total.dtype))

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracy in [0, 1] of each type with an answer, and ``accuracy``, their mean."""
        present = self.total > 0
        share = self.correct / self.total.clamp(min=1)
        by_type = {name: share[i] for i, name in enumerate(self.types) if present[i]}
        return {"accuracy": share[present].mean(), **by_type}
