"""Losses of the answers that the host gives after compression.

Dimensions: R question rows, L columns of the longest question with its answer, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from framefold.training.frozen_host.batch import BatchAnswers
from framefold.training.frozen_host.question_rows import IGNORE, answer_loss


def answer_tokens(answers: BatchAnswers) -> int:
    """Return the number of tokens of all answers."""
    return int((answers.batch.rows.labels[:, 1:] != IGNORE).sum())


def mean_answer_loss(answers: BatchAnswers) -> Tensor:
    """Return the mean cross-entropy of the answers in nats per token, 0 if there are none, a scalar."""
    logits = answers.logits
    return answer_loss(logits, answers.batch.rows) if answer_tokens(answers) else logits.sum() * 0.0  # not 0 / 0


def kl_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of KL(teacher || student) of the next token in nats, a scalar.

    Args:
        student: logits (R, L, V).
        teacher: logits (R, L, V).
        mask: (R, L) bool, the places to average over.
    """
    ours, theirs = (logits[mask].float().log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)
