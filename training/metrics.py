"""Accuracy per question type, and of complete answers, accumulated over batches and ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from framefold.data.synthetic.questions import QUESTION_TYPES

OTHER = "other"  # question types that are not those of synthetic videos


class TypeAccuracy(Metric):
    """Accuracy of each question type, and their unweighted (macro) mean.

    The first token of an answer must be right, which suffices for letters; for ``text_match``, all of its tokens.
    """

    full_state_update = False
    correct: Tensor
    exact: Tensor
    total: Tensor

    def __init__(self, types: Sequence[str] = QUESTION_TYPES) -> None:
        super().__init__()
        self.types = (*types, OTHER)
        self.add_state("correct", torch.zeros(len(self.types)), dist_reduce_fx="sum")
        self.add_state("exact", torch.zeros(len(self.types)), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(len(self.types)), dist_reduce_fx="sum")

    def update(self, correct: Tensor, exact: Tensor, types: Sequence[str]) -> None:
        """Add answers.

        Args:
            correct: (R,) bool, whether the first token is right.
            exact: (R,) bool, whether greedy decoding writes the complete answer.
            types: question type of each answer.
        """
        index = {name: i for i, name in enumerate(self.types)}
        rows = torch.tensor([index.get(name, index[OTHER]) for name in types], device=self.correct.device)
        self.correct.index_add_(0, rows, correct.to(self.correct))
        self.exact.index_add_(0, rows, exact.to(self.exact))
        self.total.index_add_(0, rows, torch.ones_like(correct, dtype=self.total.dtype))

    def compute(self) -> dict[str, Tensor]:
        """Return the accuracy in [0, 1] of each type with an answer, ``accuracy``, their mean, and ``text_match``."""
        present = self.total > 0
        share, exact = (counts / self.total.clamp(min=1) for counts in (self.correct, self.exact))
        by_type = {name: share[i] for i, name in enumerate(self.types) if present[i]}
        return {"accuracy": share[present].mean(), "text_match": exact[present].mean(), **by_type}
