"""Targets: tokens that other tokens of the same part of a video join."""

from __future__ import annotations

import torch
from torch import Tensor

from .quadtree import sum_groups
from .similarity import TINY, normalize


def nearest_targets(x: Tensor, part: list[int], targets: list[Tensor]) -> Tensor:
    """Return the (N,) int64 most similar target of each token by cosine, in its part of the video.

    Args:
        x: (T, P, D) features, as :func:`~framefold.adapters.ops.similarity.rescale_if_extreme` returns them.
        part: part of each frame, ascending from 0.
        targets: rows of the targets of each part.

    Returns:
        Numbers over the targets of all parts, in order; -1 in parts without targets; ties go to the lower number.
    """
    flat, join, first, current = x.flatten(0, 1), [], 0, -1
    unit = x.new_empty(0)
    for frame, number in zip(x, part, strict=True):
        if number != current:
            first += sum(map(len, targets[max(current, 0) : number]))
            unit, current = normalize(flat[targets[number]].float(), TINY), number
        none = torch.full((len(frame),), -1, device=x.device)
        join.append((unit @ frame.float().T).argmax(0) + first if len(unit) else none)
    return torch.cat(join)


def sum_joined(features: Tensor, join: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the (count, D) sums of the tokens that join each target, in fp32 or wider, and their (count, 1) numbers.

    Args:
        features: (T, P, D); differentiable.
        join: (N,) int64 target of each token, -1 for none.
        count: number of targets.
    """
    groups = torch.where(join < 0, count, join)
    total = sum_groups(features, groups.reshape(features.shape[:2]), count + 1)
    return total[:count], torch.bincount(groups, minlength=count + 1)[:count, None]
