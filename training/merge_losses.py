"""Losses of the features of compressed tokens, for compressors that change features before they merge tokens.

Dimensions: V videos, N visual tokens of a video, k compressed tokens, D token width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.segments import segment_sum, weighted_segment_sum
from framefold.errors import ConfigError
from framefold.training.frozen_host.batch import EncodedBatch

from .score_losses import evidence_masks


def merged_evidence_loss(tokens: list[VideoTokens], batch: EncodedBatch) -> Tensor:
    """Return the mean over videos of the distance between compressed tokens and the evidence that they represent.

    The target of a token is the mean of those of its members that are evidence of any question about the video, as
    they were before the compressor; without such a member, the mean of all its members. The distance is the squared
    error over the mean square of the target. Tokens without evidence weigh half as much in total: what they hold
    matters only if it looks like evidence. Tokens without members, such as learned ones, do not count.

    Args:
        tokens: V compressed videos.
        batch: the same V videos before compression, with their questions.

    Raises:
        ConfigError: the compressor learns nothing from the features of its tokens.
    """
    if torch.is_grad_enabled() and not any(video.features.requires_grad for video in tokens):
        raise ConfigError(
            "the loss 'merged_evidence' is for compressors that learn the features of their tokens: this one selects or"
            " merges tokens as they are; see 'evidence' for those that score tokens"
        )
    evidence = union_of_evidence(batch)
    losses = [
        _distance(video, clip.features.flatten(0, 2), mask)
        for video, clip, mask in zip(tokens, batch.encoded, evidence, strict=True)
    ]
    return torch.stack(losses).mean()


def union_of_evidence(batch: EncodedBatch) -> list[Tensor]:
    """Return V masks (N,) of the visual tokens that hold the annotated evidence of any question about the video."""
    union = [torch.zeros(clip.features.shape[:3].numel(), dtype=torch.bool) for clip in batch.encoded]
    for mask, video in zip(evidence_masks(batch), batch.rows.video.tolist(), strict=True):
        union[video] = union[video].to(mask.device) | mask
    return union


def _distance(video: VideoTokens, features: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of one video.

    Args:
        video: k compressed tokens.
        features: (N, D) before compression.
        mask: (N,) bool, evidence.
    """
    k, groups, evidence = len(video), video.assign, mask.to(torch.float32)
    count = segment_sum(torch.ones_like(evidence), groups, k)
    holds = segment_sum(evidence, groups, k) > 0
    weight = torch.where(holds[groups.clamp(min=0)], evidence, 1.0)
    target = weighted_segment_sum(features, weight, groups, k)
    target = target / segment_sum(weight, groups, k).clamp(min=1)[:, None]
    error = (video.features.to(target) - target).square().mean(-1) / target.square().mean(-1).clamp(min=1e-12)
    kinds = (1.0, holds), (0.5, (count > 0) & ~holds)
    return torch.stack([weight * error[kind].sum() / kind.sum().clamp(min=1) for weight, kind in kinds]).sum()
