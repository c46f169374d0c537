"""Losses of the scores that a compressor gives the tokens of a video, and their targets.

Dimensions: R question rows, N visual tokens of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from framefold.adapters.layers.soft_rank import correlation, soft_rank, tied_rank
from framefold.data.evidence import evidence_mask
from framefold.errors import ConfigError
from framefold.training.frozen_host.batch import EncodedBatch

RANKED = 1024  # tokens that are ranked at once, which needs RANKED ** 2 values

TEMPERATURE = 0.05  # of soft ranks, in standard deviations of the scores


def listwise_loss(scores: Sequence[Tensor | None], targets: Sequence[Tensor], by_token: bool = False) -> Tensor:
    """Return the mean cross-entropy in nats between the softmax of scores and targets; rows of zeros do not count.

    Args:
        scores: R tensors (N,).
        targets: R tensors (N,), not negative; each is scaled to sum 1.
        by_token: count each row as often as its target has tokens that are not zero, instead of once.

    Raises:
        ConfigError: the compressor returned no scores.
    """
    losses, counts = [], []
    for logits, target in zip(_all_scores(scores), targets, strict=True):
        share = target.to(logits) / target.sum().clamp(min=1e-12)
        losses.append(-(share * logits.log_softmax(-1)).sum())
        counts.append(target.count_nonzero() if by_token else target.any())
    weights = torch.stack(counts).to(losses[0])
    return (weights * torch.stack(losses)).sum() / weights.sum().clamp(min=1)


def rank_loss(scores: Sequence[Tensor | None], targets: Sequence[Tensor]) -> Tensor:
    """Return the mean of 1 minus Spearman's correlation between scores and targets, with differentiable ranks.

    Ranks of the scores are soft in units of their standard deviation, so neither their scale nor the length of the
    video changes the loss. Of more than RANKED tokens, the RANKED / 2 of the highest targets count, and as many evenly
    spaced ones of the others, in the order of the targets.

    Args:
        scores: R tensors (N,).
        targets: R tensors (N,); only their order counts.

    Raises:
        ConfigError: the compressor returned no scores.
    """
    losses = []
    for values, target in zip(_all_scores(scores), targets, strict=True):
        rows = ranked_rows(target)
        chosen = values[rows].to(torch.promote_types(values.dtype, torch.float32))
        ranks = tied_rank(target[rows]).to(chosen)
        losses.append(1 - correlation(soft_rank(_standardise(chosen), TEMPERATURE), ranks))
    return torch.stack(losses).mean()


def ranked_rows(target: Tensor) -> Tensor:
    """Return the rows of a target (N,) whose order :func:`rank_loss` teaches; all if there are at most RANKED."""
    if len(target) <= RANKED:
        return torch.arange(len(target), device=target.device)
    order, top = target.sort(descending=True, stable=True).indices, RANKED // 2
    rest = order[top:]
    spaced = (2 * torch.arange(RANKED - top, device=rest.device) + 1) * len(rest) // (2 * (RANKED - top))
    return torch.cat([order[:top], rest[spaced]])


def evidence_masks(batch: EncodedBatch) -> list[Tensor]:
    """Return R masks (N,) of the visual tokens that hold the annotated evidence of a question."""
    masks = []
    for question, video in zip(batch.questions, batch.rows.video.tolist(), strict=True):
        features = batch.encoded[video].features
        mask = torch.from_numpy(evidence_mask(question.evidence, features.shape[:3]))
        masks.append(mask.reshape(-1).to(features.device))
    return masks


def _all_scores(scores: Sequence[Tensor | None]) -> list[Tensor]:
    found = [one for one in scores if one is not None]
    if len(found) < len(scores):
        raise ConfigError("losses of scores, such as 'evidence', need a compressor that returns scores: this has none")
    return found


def _standardise(values: Tensor) -> Tensor:
    """Return values with mean 0 and standard deviation 1; equal values stay equal, with finite gradients."""
    centred = values - values.mean()
    scale = centred.detach().abs().amax()
    centred = centred / torch.where(scale > 0, scale, 1.0)  # squares of tiny or huge values would leave the range
    return centred * (centred.square().mean() + 1e-12).rsqrt()
