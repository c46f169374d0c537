"""Token views: the part of a video's tokens that the language model of the tinyhost sees in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framefold.data.evidence import evidence_mask
from framefold.data.random_stream import RandomStream
from framefold.data.synthetic.generate import Video
from framefold.data.synthetic.timeline import EVIDENCE_KINDS

VIEWS = ("full", "evidence", "events", "arrivals", "random", "frames", "pooled")


@dataclass
class TokenView:
    """A reduction of the tokens of a video, with its share of the batches.

    Attributes:
        how: "full": all tokens; "evidence": the tokens with evidence of any possible question, filled up with random
            tokens; "events": only the tokens of flashes and mover, and "arrivals": only those of the mover's last two
            frames, both filled up with random tokens; "random": random tokens; "frames": evenly spaced frames;
            "pooled": means over runs of frames of equal length, at the place of the first frame of each run.
        share: relative frequency among the views of a stage.
        keep: least and largest ratio of tokens kept.
        types: question types to ask about such a video; by default those of the stage.
    """

    how: str
    share: float = 1.0
    keep: tuple[float, float] = (1.0, 1.0)
    types: tuple[str, ...] = ()


def reduce_tokens(
    features: Tensor, videos: list[Video], how: str, count: int, rng: RandomStream, side: int
) -> tuple[Tensor, Tensor]:
    """Reduce each video to about ``count`` tokens.

    Args:
        features: (B, N, D).
        videos: the B videos, for their evidence.
        how: see :class:`TokenView`.
        count: number of tokens to keep; more if a video has more tokens with evidence.
        rng: for random tokens.
        side: rows (and columns) of the token grid of a frame.

    Returns:
        Features (B, K, D), and their places (B, K) in the full grid, ascending.
    """
    index = choose_places(videos, how, count, rng, side)
    return take_places(features, index, how, side), index


def choose_places(videos: list[Video], how: str, count: int, rng: RandomStream, side: int) -> Tensor:
    """Return the places (B, K) of the tokens that remain; arguments as for :func:`reduce_tokens`."""
    per_frame = side * side
    frames = len(videos[0].frames)
    total = frames * per_frame
    if how in ("frames", "pooled"):
        kept = max(1, min(frames, round(count / per_frame)))
        first = torch.tensor([frames * i // kept for i in range(kept)])
        places = first[:, None] * per_frame + torch.arange(per_frame)
        return places.flatten().expand(len(videos), -1)
    if how == "full":
        return torch.arange(total).expand(len(videos), -1)
    keys = rng.bytes(4 * len(videos) * total).view("<u4").reshape(len(videos), total) / 2**32
    if how in ("evidence", "events", "arrivals"):
        held = np.stack([evidence_tokens(video, side, how) for video in videos])
        count = min(total, max(count, int(held.sum(axis=1).max())))
        keys = keys - held
    order = np.sort(np.argsort(keys, axis=1, kind="stable")[:, : min(count, total)], axis=1)
    return torch.from_numpy(order)


def take_places(features: Tensor, index: Tensor, how: str, side: int) -> Tensor:
    """Return the features (B, K, D) at some places; those of "pooled" are means up to the next place."""
    if how != "pooled":
        return features.gather(1, index.to(features.device)[..., None].expand(-1, -1, features.shape[-1]))
    per_frame = side * side
    grid = features.unflatten(1, (-1, per_frame))
    edges = [*(index[0, ::per_frame] // per_frame).tolist(), grid.shape[1]]
    means = [grid[:, low:high].mean(dim=1) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    return torch.cat(means, dim=1)


def evidence_tokens(video: Video, side: int, how: str = "evidence") -> np.ndarray:
    """Return (T * side * side,) bool, the tokens with evidence; see :class:`TokenView` for the meaning of ``how``."""
    asked = [event for event in video.events if event.kind in EVIDENCE_KINDS]
    if how == "arrivals":
        boxes = [box for event in asked if event.kind == "mover" for box in event.boxes][-2:]
    else:
        boxes = [box for event in asked if how == "events" or event.kind == "flash" for box in event.boxes]
    if how == "evidence":
        boxes += list({box for question in video.every_question() for box in question.evidence})
    return evidence_mask(boxes, (len(video.frames), side, side)).reshape(-1)
