"""Held-out videos with their questions, encoded once by the host and asked at many budgets.

Dimensions: V videos, Q questions of a video, N visual tokens of a video.
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
from ..adapters.hosts import Encoded, encode, prepare
from ..data.synthetic import evidence_mask, generate
from .hostio import Host
from .qa import QARows, answer_logits, build_prompt, predict

Row = dict[str, Any]
Compress = Callable[..., Compressed]


@dataclass(frozen=True)
class HeldOut:
    """One video and what is asked about it.

    Attributes:
        number: of the video in its split.
        encoded: the host's visual tokens; times: (T,) seconds of its frames.
        prefix: (Lp,) prompt up to the end of the video; rows: its Q question rows with answers.
        types: Q question types; evidence: (Q, N) bool, the visual tokens that hold each question's evidence.
    """

    number: int
    encoded: Encoded
    times: Tensor
    prefix: Tensor
    rows: QARows
    types: tuple[str, ...]
    evidence: np.ndarray


def held_out(host: Host, videos: int, frames: int, seed: int, split: str = "test") -> Iterator[HeldOut]:
    """Make and encode synthetic videos one by one (0 .. videos-1 of a split)."""
    for number in range(videos):
        video = generate(number, seed=seed, split=split, frames=frames)
        encoded = encode(host.model, {"pixel_values_videos": host.pixel_values(video.frames)})[0]
        prefix, rows = build_prompt(
            host.tokenizer,
            [question.text for question in video.questions],
            [question.answer for question in video.questions],
            len(encoded),
            host.model.config.video_token_id,
        )
        grid = tuple(encoded.features.shape[:3])
        evidence = np.stack([evidence_mask(question.evidence, grid).reshape(-1) for question in video.questions])
        types = tuple(question.type for question in video.questions)
        yield HeldOut(number, encoded, torch.from_numpy(video.times), prefix, rows, types, evidence)


class Timed:
    """A compressor that notes how long each call took, in milliseconds."""

    def __init__(self, compressor: Compress) -> None:
        self.compressor = compressor
        self.milliseconds: list[float] = []

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        start = time.perf_counter()
        out = self.compressor(video, query)
        self.milliseconds.append(1000 * (time.perf_counter() - start))
        return out


@torch.no_grad()
def ask(
    host: Host, compressor: Compress, samples: list[HeldOut], batch_size: int
) -> tuple[list[Row], dict[str, float]]:
    """Ask every question of every video once, with its tokens compressed.

    Args:
        batch_size: videos per forward of the language model.

    Returns:
        One row an answer (``video``, ``type``, ``correct``, ``tokens`` that entered the language model), and the
        medians ``compressor_ms`` and ``llm_ms`` in milliseconds per video.
    """
    timed, answers, llm = Timed(compressor), [], []
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        rows = QARows.concat([sample.rows for sample in batch])
        logits, tokens, seconds = _forward(host, timed, batch, [s.encoded for s in batch], rows)
        llm.append(1000 * seconds / len(batch))
        correct = (predict(logits, rows) == rows.answers()).tolist()
        owners = [(b, kind) for b, sample in enumerate(batch) for kind in sample.types]
        for (b, kind), right in zip(owners, correct, strict=True):
            answers.append({"video": batch[b].number, "type": kind, "correct": right, "tokens": tokens[b]})
    return answers, {"compressor_ms": float(np.median(timed.milliseconds)), "llm_ms": float(np.median(llm))}


@torch.no_grad()
def ask_oracle(
    host: Host, samples: list[HeldOut], tokens_of: Callable[[int], int]
) -> tuple[list[Row], dict[str, float]]:
    """As :func:`ask`, but every question gets tokens of its own: its annotated evidence, the rest evenly spaced.

    Args:
        tokens_of: budget, number of visual tokens to keep of N.
    """
    answers, llm = [], []
    for sample in samples:
        oracle = Timed(KeepEvidence(sample.evidence, tokens_of(sample.evidence.shape[1])))
        questions = len(sample.types)
        rows = QARows.concat([_row(sample.rows, q) for q in range(questions)])
        logits, tokens, seconds = _forward(host, oracle, [sample] * questions, [sample.encoded] * questions, rows)
        llm.append(1000 * seconds)
        correct = (predict(logits, rows) == rows.answers()).tolist()
        for kind, right, count in zip(sample.types, correct, tokens, strict=True):
            answers.append({"video": sample.number, "type": kind, "correct": right, "tokens": count})
    return answers, {"compressor_ms": 0.0, "llm_ms": float(np.median(llm))}


class KeepEvidence:
    """Keeps a question's annotated evidence; what is left of the budget goes to evenly spaced tokens of the rest.

    Evidence that exceeds the budget is thinned out evenly. Called once for each question, in their order.
    """

    def __init__(self, evidence: np.ndarray, k: int) -> None:
        self.masks, self.k = iter(evidence), k

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        mask = next(self.masks)
        evidence, others = np.flatnonzero(mask), np.flatnonzero(~mask)
        chosen = _thin(evidence, min(self.k, len(evidence)))
        rest = _thin(others, self.k - len(chosen))
        return Compressed(video.keep(torch.from_numpy(np.sort(np.concatenate([chosen, rest])))))


def _thin(places: np.ndarray, k: int) -> np.ndarray:
    return places[(2 * np.arange(k) + 1) * len(places) // (2 * max(k, 1))]


def _forward(
    host: Host, compressor: Compress, batch: list[HeldOut], encoded: list[Encoded], rows: QARows
) -> tuple[Tensor, list[int], float]:
    ids = torch.stack([sample.prefix for sample in batch])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prepared = prepare(host.model, inputs, compressor, encoded=encoded, times=[s.times for s in batch])
    start = time.perf_counter()
    logits = answer_logits(host.model, prepared.kwargs, rows)
    return logits, [len(tokens) for tokens in prepared.tokens], time.perf_counter() - start


def _row(rows: QARows, q: int) -> QARows:
    one = slice(q, q + 1)
    return QARows(*(getattr(rows, name)[one] for name in ("input_ids", "attention_mask", "labels", "video", "start")))
