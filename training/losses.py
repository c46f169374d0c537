"""The training loss: a weighted sum of named parts.

``answer``: cross-entropy of the answers. ``kl``: distillation from the host on all tokens; needs no answers.
``attention``: the compressor's scores follow the attention of that host's question to its visual tokens; needs no
annotation. ``evidence``: they follow the annotated evidence of the question. Others: what the compressor returns.

Every part is a mean (over answer tokens, questions, videos), and over all ranks together: how a global batch is dealt
to ranks changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from framefold.data.evidence import evidence_mask
from framefold.errors import ConfigError
from framefold.training.frozen_host.ask import Answered, EncodedBatch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import IGNORE, answer_loss, answer_places

from .teacher import teach

DISTILLED = ("kl", "attention", "evidence")  # off unless they are given a weight

SCORED = ("attention", "evidence")  # teach the scores of a query-aware compressor


def check_weights(weights: Mapping[str, float], scores: bool = True) -> dict[str, float]:
    """Validate loss weights.

    Args:
        scores: the compressor scores tokens for a question.

    Raises:
        ConfigError: a weight is negative or not finite, or all are zero, or one teaches scores that are not there.
    """
    nothing = weights.get("answer", 1.0) == 0 and not any(weights.values())
    if not all(0 <= weight < math.inf for weight in weights.values()) or nothing:
        raise ConfigError(f"loss weights must be finite, not negative, and not all zero, got {dict(weights)}")
    wrong = [name for name in SCORED if weights.get(name) and not scores]
    if wrong:
        raise ConfigError(f"the loss {wrong[0]!r} teaches the scores of a query-aware compressor; this one is not")
    return dict(weights)


def loss_parts(host: Host, asked: EncodedBatch, answered: Answered, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """The parts that have a weight, each a scalar; "answer" also without one if there are answers, for the log.

    Args:
        asked: the batch with each video once, for the teacher. answered: what the student made of it.
        weights: by name.
    """
    parts = dict(answered.prepared.losses)
    rows = answered.asked.rows
    if weights.get("answer", 1.0) or bool((rows.answers() >= 0).any()):
        counts = weights.get("answer", 1.0) > 0  # without a weight, no backward through the host
        logits = answered.logits if counts else answered.logits.detach()
        labelled = bool((rows.labels[:, 1:] != IGNORE).any())  # the mean over nothing is NaN
        parts = {"answer": answer_loss(logits, rows) if labelled else logits.sum() * 0.0, **parts}
    if weights.get("evidence"):
        parts["evidence"] = listwise_loss(answered.prepared.scores, evidence_of(answered.asked))
    if weights.get("kl") or weights.get("attention"):
        teacher = teach(host, asked, attention=bool(weights.get("attention")))
        if weights.get("kl"):
            parts["kl"] = kl_loss(answered.logits, teacher.logits, answer_places(rows))
        if weights.get("attention"):
            parts["attention"] = listwise_loss(answered.prepared.scores, teacher.attention)
    return parts


def shares(
    asked: EncodedBatch,
    answered: Answered,
    parts: Mapping[str, Tensor],
    weights: Mapping[str, float],
    add_up: Callable[[Tensor], Tensor],
    world: int,
) -> dict[str, float]:
    """Factors that make the mean over ranks of this rank's parts their mean over the global batch.

    A part counts by what it is a mean over here; a rank with twice as many answer tokens counts twice. Exactly 1 where
    one process has all of them.

    Args:
        parts: of :func:`loss_parts`. add_up: sums a tensor over the ranks. world: number of ranks.
    """
    names = sorted(name for name in parts if weights.get(name, 1.0))  # the same on every rank
    rows, device = answered.asked.rows, answered.logits.device
    counts = {
        "answer": (rows.labels[:, 1:] != IGNORE).sum().item(),
        "kl": answer_places(rows).sum().item(),
        "attention": len(rows.video),
    }
    if "evidence" in names:
        counts["evidence"] = sum(bool(mask.any()) for mask in evidence_of(answered.asked))
    videos = len(answered.prepared.tokens)
    own = torch.tensor([counts.get(name, videos) for name in names], dtype=torch.float64, device=device)
    together = add_up(own.clone())
    return dict(zip(names, (own * world / together.clamp(min=1)).tolist(), strict=True))


def total_loss(parts: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Weighted sum, scalar.

    Args:
        parts: scalars by name; those of the compressor are already in the proportion that its method wants.
        weights: by name, 1 where a name is missing.

    Raises:
        ConfigError: a weight for a loss that this compressor does not return.
    """
    unknown = sorted(weights.keys() - parts.keys() - {"answer", *DISTILLED})
    if unknown:
        known = ", ".join(sorted({"answer", *DISTILLED, *parts}))
        raise ConfigError(f"no loss is called {', '.join(unknown)}; this compressor has {known}")
    return torch.stack([value * weights.get(name, 1.0) for name, value in parts.items()]).sum()


def kl_loss(student: Tensor, teacher: Tensor, places: Tensor) -> Tensor:
    """Mean over the places of KL(teacher || student) of the next token, in nats; scalar.

    Args:
        student, teacher: logits (R, L, V). places: (R, L) bool.
    """
    ours, theirs = (logits[places].float().log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def listwise_loss(scores: Sequence[Tensor | None], targets: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy (nats) between the softmax of scores and target shares; rows without a target are left out.

    Args:
        scores: R tensors (N,). targets: R tensors (N,), not negative; each is scaled to sum one.

    Raises:
        ConfigError: the compressor returned no scores.
    """
    losses = []
    for logits, target in zip(scores, targets, strict=True):
        if logits is None:
            raise ConfigError(
                "the losses 'attention' and 'evidence' teach scores, which this compressor does not return"
            )
        share = target.to(logits) / target.sum().clamp(min=1e-12)
        losses.append(-(share * logits.log_softmax(-1)).sum())
    counted = [loss for loss, target in zip(losses, targets, strict=True) if bool(target.any())]
    return torch.stack(counted).mean() if counted else 0.0 * torch.stack(losses).sum()


def evidence_of(asked: EncodedBatch) -> list[Tensor]:
    """For each question with a video of its own, (N,) bool: the visual tokens that hold its annotated evidence."""
    masks = []
    for question, clip in zip(asked.questions, asked.encoded, strict=True):
        t, h, w = clip.features.shape[:3]
        masks.append(torch.from_numpy(evidence_mask(question.evidence, (t, h, w))).reshape(-1).to(clip.features.device))
    return masks


def touch(module: nn.Module) -> Tensor:
    """A zero that depends on every trainable parameter that is here.

    Added to the loss, it gives each of them a gradient at each step: one without hangs DDP and aborts ZeRO-1/2. LoRA is
    away outside of its layers' forward under ZeRO-3 and FSDP2; there the loss has to use the host, or nowhere.
    """
    zero = torch.zeros(())
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.numel() and not isinstance(parameter, DTensor):
            zero = zero.to(parameter.device) + parameter.sum() * 0.0
    return zero
