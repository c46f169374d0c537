"""Held-out videos with their questions, encoded once by the host and asked at many budgets.

Dimensions: B videos of a batch, R question rows, N visual tokens of a video.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..adapters import Compressed, VideoTokens
from ..data.samples import Recipe
from ..data.synthetic import evidence_mask
from ..data.timeline import ASKED_ABOUT
from .batching import Asked, answer, ask, visual_tokens
from .hostio import Host
from .qa import predict

Row = dict[str, Any]
Compress = Callable[..., Compressed]


@dataclass(frozen=True)
class HeldOut:
    """A batch of videos and what is asked about them.

    Attributes:
        asked: prompts, question rows, and videos as the host's vision side sees them.
        numbers: R numbers of the videos that the rows ask about, the same for twins: they are one draw of statistics.
        evidence: R arrays (N,) bool, the visual tokens that hold the evidence of a row's question.
        events: B arrays (N,) bool, the visual tokens that hold an event which can be asked about.
    """

    asked: Asked
    numbers: list[int]
    evidence: list[np.ndarray]
    events: list[np.ndarray]


def held_out(host: Host, recipe: Recipe, videos: int, batch_size: int, attention: bool = False) -> Iterator[HeldOut]:
    """Make and encode synthetic videos 0 .. videos-1 of a recipe, batch by batch.

    Args:
        attention: also collect the attention that each token received in the vision encoder.
    """
    for first in range(0, videos, batch_size):
        numbers = range(first, min(first + batch_size, videos))
        videos_made = [recipe.video(number) for number in numbers]
        with torch.no_grad():
            asked = ask(host, [recipe.sample_of(video) for video in videos_made], attention)
        owner, evidence, events = [], [], []
        for number, video, encoded in zip(numbers, videos_made, asked.encoded, strict=True):
            t, h, w = encoded.features.shape[:3]
            owner += [number // 2] * len(video.questions)
            evidence += [evidence_mask(question.evidence, (t, h, w)).reshape(-1) for question in video.questions]
            asked_about = [event for event in video.events if event.kind in ASKED_ABOUT]
            boxes = [box for event in asked_about for box in event.boxes]
            events.append(evidence_mask(boxes, (t, h, w)).reshape(-1))
        yield HeldOut(asked, owner, evidence, events)


@torch.no_grad()
def put(host: Host, compressor: Compress, batches: list[HeldOut]) -> tuple[list[Row], dict[str, float]]:
    """Put every question once, with the videos compressed.

    Returns:
        One row an answer (``video``, ``type``, ``correct``, ``tokens`` kept), and the cost: medians ``compressor_ms``
        and ``llm_ms`` in milliseconds per video, and ``tokens_entered``, the mean number of columns of video in the
        prompt of the language model (with what the host adds to the grid, such as a newline).
    """
    timed, rows, llm, entered = Timed(compressor), [], [], []
    for batch in batches:
        before, start = sum(timed.milliseconds), time.perf_counter()
        logits, prepared, asked = answer(host, timed, batch.asked)
        spent = 1000 * (time.perf_counter() - start) - (sum(timed.milliseconds) - before)
        llm.append(spent / len(batch.asked.encoded))
        entered.append((visual_tokens(host, prepared), len(batch.asked.encoded)))
        correct = (predict(logits, asked.rows) == asked.rows.answers()).tolist()
        kept = [len(prepared.tokens[video]) for video in asked.rows.video.tolist()]
        for number, kind, right, tokens in zip(batch.numbers, batch.asked.types, correct, kept, strict=True):
            rows.append({"video": number, "type": kind, "correct": right, "tokens": tokens})
    videos = sum(count for _, count in entered)
    cost = {"compressor_ms": float(np.median(timed.milliseconds)), "llm_ms": float(np.median(llm))}
    return rows, {**cost, "tokens_entered": sum(mean * count for mean, count in entered) / videos}


def put_to_oracle(
    host: Host, batches: list[HeldOut], tokens_of: Callable[[int], int]
) -> tuple[list[Row], dict[str, float]]:
    """As :func:`put`, but every question gets tokens of its own: its annotated evidence, the rest evenly spaced.

    Args:
        tokens_of: number of visual tokens to keep of N.
    """
    keep = KeepEvidence([mask for batch in batches for mask in batch.evidence], tokens_of)
    keep.query_aware = True
    return put(host, keep, batches)


def put_to_event_oracle(
    host: Host, batches: list[HeldOut], tokens_of: Callable[[int], int]
) -> tuple[list[Row], dict[str, float]]:
    """As :func:`put`, keeping the annotated tokens of all events, whatever is asked; the rest evenly spaced.

    Args:
        tokens_of: number of visual tokens to keep of N.
    """
    return put(host, KeepEvidence([mask for batch in batches for mask in batch.events], tokens_of), batches)


class KeepEvidence:
    """Keeps annotated tokens; what is left of the budget goes to evenly spaced tokens of the rest.

    Those that exceed the budget are thinned out evenly. Called once for each mask, in their order.
    """

    query_aware = False

    def __init__(self, evidence: list[np.ndarray], tokens_of: Callable[[int], int]) -> None:
        self.masks, self.tokens_of = iter(evidence), tokens_of

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        mask, k = next(self.masks), self.tokens_of(len(video))
        evidence, others = np.flatnonzero(mask), np.flatnonzero(~mask)
        chosen = _thin(evidence, min(k, len(evidence)))
        rest = _thin(others, k - len(chosen))
        return Compressed(video.keep(torch.from_numpy(np.sort(np.concatenate([chosen, rest])))))


class Timed:
    """A compressor that notes how long each call took, in milliseconds."""

    def __init__(self, compressor: Compress) -> None:
        self.compressor = compressor
        self.query_aware = getattr(compressor, "query_aware", False)
        self.needs_attention = getattr(compressor, "needs_attention", False)
        self.milliseconds: list[float] = []

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        start = time.perf_counter()
        out = self.compressor(video, query)
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        return out


def _thin(places: np.ndarray, k: int) -> np.ndarray:
    return places[(2 * np.arange(k) + 1) * len(places) // (2 * max(k, 1))]
