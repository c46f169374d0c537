"""Accuracy per question type, added up over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from framefold.data.synthetic.questions import QUESTION_TYPES

OTHER = "other"  # types of other people's data are put together


class TypeAccuracy(Metric):
    """Share of right answers of each question type, and their unweighted mean (macro)."""

    full_state_update = False
    right: Tensor
    asked: Tensor

    def __init__(self, types: Sequence[str] = QUESTION_TYPES) -> None:
        super().__init__()
        self.types = (*types, OTHER)
        self.add_state("right", torch.zeros(len(self.types)), dist_reduce_fx="sum")
        self.add_state("asked", torch.zeros(len(self.types)), dist_reduce_fx="sum")

    def update(self, correct: Tensor, types: Sequence[str]) -> None:
        """Add answers: correct (R,) bool, and the type of each question."""
        index = {name: i for i, name in enumerate(self.types)}
        rows = torch.tensor([index.get(name, index[OTHER]) for name in types], device=self.right.device)
        self.right.index_add_(0, rows, correct.to(self.right))
        self.asked.index_add_(0, rows, torch.ones_like(correct, dtype=self.asked.dtype))

    def compute(self) -> dict[str, Tensor]:
        """Accuracy in [0, 1] of each type that was asked, and ``accuracy``, their mean."""
        seen = self.asked > 0
        share = self.right / self.asked.clamp(min=1)
        by_type = {name: share[i] for i, name in enumerate(self.types) if seen[i]}
        return {"accuracy": share[seen].mean(), **by_type}
