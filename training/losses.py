"""Training losses: declarations, weights, and means over all ranks.

The training loss is the weighted sum of the declared losses (:data:`LOSSES`) and of the losses that the compressor
returns. Each of them is a mean over the global batch, so the distribution of videos over ranks does not change it.

To add a loss, add its declaration to :data:`LOSSES`. Validation, training, logging, the teacher and the help text of
``model.losses`` follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from framefold.errors import ConfigError
from framefold.messages import nearest
from framefold.training.frozen_host.batch import BatchAnswers, EncodedBatch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import QuestionRows, answer_mask

from .answer_losses import answer_tokens, kl_loss, mean_answer_loss
from .merge_losses import merged_evidence_loss
from .optimizer import LossWeight
from .score_losses import evidence_masks, listwise_loss, rank_loss
from .teacher import TeacherAttention, TeacherOutputs, teacher_outputs

Documented = TypeVar("Documented", bound=type)


@dataclass(frozen=True)
class LossInputs:
    """What a declared loss is computed from.

    Attributes:
        answers: outputs of the student, and the batch as the student saw it.
        teacher: outputs of the host on all tokens; None unless an active loss needs them.
    """

    answers: BatchAnswers
    teacher: TeacherOutputs | None = None

    @property
    def rows(self) -> QuestionRows:
        """Question rows of the student."""
        return self.answers.batch.rows

    @property
    def scores(self) -> list[Tensor | None]:
        """R scores (N,) of the tokens of the video of each question; None where the compressor returned none.

        Those of a compressor that ignores the question are the same for all questions about a video, so that a loss
        over questions teaches it how likely a token is to matter to any of them.
        """
        scores = self.answers.prepared.scores
        return [scores[video] for video in self.rows.video.tolist()]

    @property
    def teacher_logits(self) -> Tensor:
        """(R, L, V) logits of the teacher; for losses declared with a teacher."""
        assert self.teacher is not None
        return self.teacher.logits

    @property
    def teacher_attention(self) -> list[Tensor]:
        """R tensors (N,) of the teacher's attention; for losses declared with ``teacher="attention"``."""
        assert self.teacher is not None
        return self.teacher.attention


@dataclass(frozen=True)
class Loss:
    """Declaration of a loss.

    Attributes:
        name: key of its weight in ``model.losses``; it is logged as ``train/<name>``.
        description: one sentence for the help text, without the name.
        compute: returns the loss of this rank's batch, a scalar mean.
        count: returns the number of items that ``compute`` averages over in this rank's batch.
        teacher: outputs of the teacher that it needs; None if it needs no teacher. "attention" includes the logits.
        needs_scores: whether it trains the scores that a compressor gives tokens.
        needs_logits: whether it is computed from the outputs of the language model. A step in which no such loss is
            active does not run the language model.
        on_by_default: whether its weight is 1 (or else 0) if none is given. Such a loss is logged at weight 0, too, if
            the language model runs.
    """

    name: str
    description: str
    compute: Callable[[LossInputs], Tensor]
    count: Callable[[LossInputs], int]
    teacher: Literal["logits", "attention"] | None = None
    needs_scores: bool = False
    needs_logits: bool = True
    on_by_default: bool = False

    def is_active(self, weights: Mapping[str, float]) -> bool:
        """Return whether the loss contributes to the training loss under these weights."""
        return bool(weights.get(self.name, float(self.on_by_default)))


def needs_logits(weights: Mapping[str, float]) -> bool:
    """Return whether a loss that is active under these weights is computed from the answers of the host."""
    return any(loss.needs_logits and loss.is_active(weights) for loss in LOSSES.values())


def validate_loss_weights(weights: Mapping[str, LossWeight], scores: bool = True) -> dict[str, LossWeight]:
    """Validate loss weights.

    Names are compared with the losses of the compressor in :func:`total_loss`, once these are known.

    Args:
        weights: by name of the loss; two numbers for a weight that changes linearly over the run.
        scores: whether the compressor returns scores of tokens.

    Raises:
        ConfigError: A weight is negative or not finite, all weights are zero at the start or at the end, or a loss
            needs scores and the compressor has none.
    """
    pairs = {name: weight if isinstance(weight, list) else [weight, weight] for name, weight in weights.items()}
    if not all(len(pair) == 2 and min(pair) >= 0 and max(pair) < math.inf for pair in pairs.values()):
        raise ConfigError(f"loss weights must be numbers or lists of two, finite and not negative, got {dict(weights)}")
    ends = [{name: pair[end] for name, pair in pairs.items()} for end in (0, 1)]
    active = [[loss.name for loss in LOSSES.values() if loss.is_active(at)] for at in ends]
    if not all(names or any(at.values()) for names, at in zip(active, ends, strict=True)):
        raise ConfigError(f"loss weights must not all be zero, got {dict(weights)}")
    for name in dict.fromkeys([*active[0], *active[1]]):
        if LOSSES[name].needs_scores and not scores:
            raise ConfigError(f"the loss {name!r} trains the scores of tokens, which this compressor does not return")
    return dict(weights)


def compute_losses(
    host: Host,
    batch: EncodedBatch,
    answers: BatchAnswers,
    weights: Mapping[str, float],
    teacher: TeacherAttention | None = None,
) -> dict[str, Tensor]:
    """Compute the losses of a batch, without their weights.

    Args:
        host: for the teacher.
        batch: each video once, for the teacher.
        answers: of the student.
        weights: by name of the loss.
        teacher: which attention of the host the scores learn; None for the default.

    Returns:
        Scalars by name: the active declared losses, those of the compressor, and losses that are on by default and have
        weight 0 but at least one item; the latter have no gradient.
    """
    active = [loss for loss in LOSSES.values() if loss.is_active(weights)]
    inputs = LossInputs(answers, _run_teacher(host, batch, active, teacher or TeacherAttention()))
    default: dict[str, Tensor] = {}
    optional: dict[str, Tensor] = {}
    for loss in LOSSES.values():
        values = default if loss.on_by_default else optional
        if loss in active:
            values[loss.name] = loss.compute(inputs)
        elif loss.on_by_default and answers.logits.numel() and loss.count(inputs):
            with torch.no_grad():
                values[loss.name] = loss.compute(inputs)
    return {**default, **answers.prepared.losses, **optional}


def _run_teacher(
    host: Host, batch: EncodedBatch, active: Sequence[Loss], attention: TeacherAttention
) -> TeacherOutputs | None:
    needed = {loss.teacher for loss in active} - {None}
    return teacher_outputs(host, batch, attention if "attention" in needed else None) if needed else None


def global_mean_factors(
    answers: BatchAnswers,
    parts: Mapping[str, Tensor],
    weights: Mapping[str, float],
    sum_over_ranks: Callable[[Tensor], Tensor],
    world: int,
) -> dict[str, float]:
    """Return factors that turn the mean over ranks of each loss into its mean over the global batch.

    A rank counts by the items that its loss averages over; a rank with twice as many answer tokens counts twice. Losses
    of the compressor are means over videos. With one rank all factors are exactly 1.

    Args:
        answers: of the student.
        parts: result of :func:`compute_losses`.
        weights: by name of the loss.
        sum_over_ranks: sums a tensor over the ranks.
        world: number of ranks.
    """
    names = sorted(name for name in parts if weights.get(name, 1.0))  # the same on every rank
    inputs, videos = LossInputs(answers), len(answers.prepared.tokens)
    counts = [LOSSES[name].count(inputs) if name in LOSSES else videos for name in names]
    local = torch.tensor(counts, dtype=torch.float64, device=answers.logits.device)
    total = sum_over_ranks(local.clone())
    return dict(zip(names, (local * world / total.clamp(min=1)).tolist(), strict=True))


def total_loss(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Return the weighted sum, a scalar.

    Args:
        parts: scalars by name; the compressor returns its own in the proportion that its method prescribes.
        weights: by name, 1 where a name is missing.

    Raises:
        ConfigError: A weight is given for a loss that neither is declared nor returned by this compressor.
    """
    known = {*LOSSES, *parts}
    if unknown := sorted(weights.keys() - known):
        raise ConfigError(f"no loss of this compressor is called {unknown[0]!r}{nearest(unknown[0], known)}")
    return torch.stack([value * weights.get(name, 1.0) for name, value in parts.items()]).sum()


def document_losses(documented: Documented) -> Documented:
    """Replace ``{losses}`` in the docstring of a class by the names and descriptions of the declared losses."""
    lines = ". ".join(f'"{loss.name}": {loss.description}' for loss in LOSSES.values())
    documented.__doc__ = (documented.__doc__ or "").replace("{losses}", lines)
    return documented


def _declare(*losses: Loss) -> dict[str, Loss]:
    return {loss.name: loss for loss in losses}


LOSSES: dict[str, Loss] = _declare(
    Loss(
        "answer",
        "cross-entropy of the answers, on by default",
        compute=lambda inputs: mean_answer_loss(inputs.answers),
        count=lambda inputs: answer_tokens(inputs.answers),
        on_by_default=True,
    ),
    Loss(
        "evidence",
        "the scores follow the annotated evidence of the question; for compressors that score tokens",
        compute=lambda inputs: listwise_loss(inputs.scores, evidence_masks(inputs.answers.batch)),
        count=lambda inputs: sum(bool(mask.any()) for mask in evidence_masks(inputs.answers.batch)),
        needs_scores=True,
        needs_logits=False,
    ),
    Loss(
        "evidence_tokens",
        "the same, but every token of evidence counts equally instead of every question; teaches more about evidence of"
        " many tokens, such as the path of an object",
        compute=lambda inputs: listwise_loss(inputs.scores, evidence_masks(inputs.answers.batch), by_token=True),
        count=lambda inputs: sum(int(mask.sum()) for mask in evidence_masks(inputs.answers.batch)),
        needs_scores=True,
        needs_logits=False,
    ),
    Loss(
        "merged_evidence",
        "each token after compression equals the mean of the annotated evidence among the tokens that it stands for;"
        " for compressors that change features before they merge tokens",
        compute=lambda inputs: merged_evidence_loss(inputs.answers.prepared.tokens, inputs.answers.batch),
        count=lambda inputs: len(inputs.answers.prepared.tokens),
        needs_logits=False,
    ),
    Loss(
        "kl",
        "distillation from the host on all tokens; needs no answers",
        compute=lambda inputs: kl_loss(inputs.answers.logits, inputs.teacher_logits, answer_mask(inputs.rows)),
        count=lambda inputs: int(answer_mask(inputs.rows).sum()),
        teacher="logits",
    ),
    Loss(
        "attention",
        "the scores follow the attention of question and answer to the visual tokens in the host on all tokens; needs"
        " no evidence and, with answers: false in model.teacher, no answers; for compressors that score tokens",
        compute=lambda inputs: listwise_loss(inputs.scores, inputs.teacher_attention),
        count=lambda inputs: len(inputs.rows.video),
        teacher="attention",
        needs_scores=True,
        needs_logits=False,
    ),
    Loss(
        "rank",
        "the order of the scores follows the order of the same attention; for compressors that score tokens",
        compute=lambda inputs: rank_loss(inputs.scores, inputs.teacher_attention),
        count=lambda inputs: len(inputs.rows.video),
        teacher="attention",
        needs_scores=True,
        needs_logits=False,
    ),
)
