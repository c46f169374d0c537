"""Answers of a host from the tokens to which one of its layers attends most.

Dimensions: R questions, N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from framefold.adapters.base.build import build
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.ops.selection import exact_topk
from framefold.data.shards.sample import Sample
from framefold.evaluation.metrics.ranking import ranking_auc
from framefold.training.frozen_host.batch import EncodedBatch, answer_questions, encode_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import predict
from framefold.training.score_losses import evidence_masks
from framefold.training.teacher import Heads, TeacherAttention, compare_attention


@dataclass(frozen=True)
class Taught:
    """What the tokens of one question are worth that one teacher ranks highest.

    Attributes:
        layers: decoder layers of the teacher; empty for evenly spaced frames, which have no teacher.
        heads: how its attention is reduced over heads and words.
        budget: share or number of tokens.
        kind: type of the question.
        cluster: the same for twins.
        correct: whether the host's answer from these tokens is right.
        auc: how the teacher ranks the evidence, see :func:`~framefold.evaluation.metrics.ranking.ranking_auc`.
    """

    layers: tuple[int, ...]
    heads: str
    budget: float | int
    kind: str
    cluster: int
    correct: bool
    auc: float


class KeepRanked:
    """Keeps the highest tokens of one ranking per call, like a query-aware compressor.

    Args:
        rankings: (N,) scores of each question, in order.
        budget: share or number of tokens.
    """

    query_aware, needs_query, needs_attention = True, False, False

    def __init__(self, rankings: Sequence[Tensor], budget: float | int) -> None:
        self.rankings, self.budget = iter(rankings), budget

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        return Compressed(video.keep(exact_topk(next(self.rankings), budget_tokens(self.budget, len(video)))))


@torch.no_grad()
def answer_from_layers(host: Host, sample: Sample, cluster: int, budgets: Sequence[float | int]) -> Iterator[Taught]:
    """Yield what each layer, all layers together, and evenly spaced frames are worth for each question of a video.

    Args:
        host: teaches and answers.
        sample: the video with its questions.
        cluster: number of the pair of twins.
        budgets: shares or numbers of tokens.
    """
    batch = encode_batch(host, [sample])
    layers = range(len(host.family.decoder_layers(host.model)))
    evidence = evidence_masks(batch.one_video_per_question())
    choices = [*([layer] for layer in layers), list(layers)]
    settings = [TeacherAttention(chosen, heads) for heads in get_args(Heads) for chosen in choices]
    _, attention = compare_attention(host, batch, settings)
    for setting, rankings in zip(settings, attention, strict=True):
        pairs = zip(rankings, evidence, strict=True)
        aucs = [float(ranking_auc(row.cpu().numpy(), mask[None].cpu().numpy())[0]) for row, mask in pairs]
        for budget in budgets:
            right = _right(host, KeepRanked(rankings, budget), batch)
            for kind, correct, auc in zip(batch.types, right, aucs, strict=True):
                yield Taught(tuple(setting.layers or ()), setting.heads, budget, kind, cluster, correct, auc)
    for budget in budgets:
        for kind, correct in zip(batch.types, _right(host, build("uniform", budget).eval(), batch), strict=True):
            yield Taught((), "", budget, kind, cluster, correct, float("nan"))


def _right(host: Host, compressor: object, batch: EncodedBatch) -> list[bool]:
    """Return whether the host answers each question right from the tokens that a compressor keeps."""
    logits, _, asked = answer_questions(host, compressor, batch)
    right: list[bool] = (predict(logits, asked.rows) == asked.rows.answers()).tolist()
    return right
