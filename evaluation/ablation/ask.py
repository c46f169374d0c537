"""Held-out videos with their questions, encoded once by the host and asked at many budgets.

Dimensions: B videos of a batch, R question rows.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.evaluation.metrics.evidence import KeptEvidence
from framefold.evaluation.metrics.timing import Compress, TimedCompressor, synchronize
from framefold.training.frozen_host.ask import answer_questions, visual_tokens
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import IGNORE, QARows

from .batches import HeldOutBatch
from .oracles import KeepEvidence

Row = dict[str, Any]


@torch.no_grad()
def evaluate_questions(
    host: Host, compressor: Compress, batches: Iterable[HeldOutBatch], drill: int = 0
) -> tuple[list[Row], list[Row], dict[str, float]]:
    """Put every question once, with the videos compressed.

    Args:
        drill: note what was kept of so many videos, the first ones.

    Returns:
        One row an answer (see :mod:`.results`), what was kept of the first videos, and what is measured on the way:
        ``answering_ms``, the median in milliseconds per video of everything but the compressor, and ``tokens_entered``,
        the mean number of columns of video in the prompt of the language model (with what the host adds to the grid,
        such as a newline).
    """
    timed, said = TimedCompressor(compressor, host.model.device), _Said(host)
    rows: list[Row] = []
    kept: list[Row] = []
    spent, columns, prompts = [], 0.0, 0
    for batch in batches:
        if isinstance(compressor, KeepEvidence):
            compressor.begin(batch)
        before, start = sum(timed.milliseconds), time.perf_counter()
        logits, prepared, asked = answer_questions(host, timed, batch.asked)
        synchronize(host.model.device)
        took = 1000 * (time.perf_counter() - start) - (sum(timed.milliseconds) - before)
        spent.append(took / len(batch.numbers))
        columns += visual_tokens(host, prepared) * len(asked.encoded)
        prompts += len(asked.encoded)
        if batch.numbers[0] < drill:
            kept += _kept(batch, prepared.tokens, len(rows) if timed.query_aware else None, drill)
        rows += _rows(batch, asked.rows.video.tolist(), prepared.tokens, said(logits, asked.rows))
    return rows, kept, {"answering_ms": float(np.median(spent)), "tokens_entered": columns / prompts}


def _rows(
    batch: HeldOutBatch, places: list[int], tokens: list[VideoTokens], said: list[tuple[str, bool]]
) -> Iterator[Row]:
    """One row an answer; ``places`` tells which of the compressed videos each question was put behind."""
    fates = [KeptEvidence.of(out) for out in tokens]
    owners = batch.asked.rows.video.tolist()
    for row, (owner, place, (text, right)) in enumerate(zip(owners, places, said, strict=True)):
        question, evidence, fate = batch.asked.questions[row], batch.evidence[row], fates[place]
        yield {
            "video": batch.numbers[owner],
            "draw": batch.draws[owner],
            "type": question.type,
            "question": question.text,
            "answer": question.answer,
            "said": text,
            "correct": right,
            "tokens": fate.tokens,
            "recall": fate.recall(evidence),
            "purity": fate.purity(evidence),
        }


def _kept(batch: HeldOutBatch, tokens: list[VideoTokens], first: int | None, drill: int) -> Iterator[Row]:
    """What entered of each video; where ``first`` is a number, of each question, the first of which it is."""
    owners = range(len(batch.numbers)) if first is None else batch.asked.rows.video.tolist()
    for place, (owner, out) in enumerate(zip(owners, tokens, strict=True)):
        if batch.numbers[owner] < drill:
            merged = bool((out.size != 1).any())
            yield {
                "video": batch.numbers[owner],
                "key": batch.keys[owner],
                "row": None if first is None else first + place,
                "grid": list(out.grid),
                "index": out.index.tolist(),
                "size": out.size.tolist() if merged else None,
            }


class _Said:
    """What a host answers, greedily, and whether that is right."""

    def __init__(self, host: Host) -> None:
        self.tokenizer, self._texts = host.tokenizer, dict[tuple[int, ...], str]()

    def __call__(self, logits: Tensor, rows: QARows) -> list[tuple[str, bool]]:
        """Text and correctness of each row: every token of the right answer is the likeliest behind those before it.

        The text has as many tokens as the right answer.
        """
        row, column = (rows.labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        likeliest = logits[row, column].argmax(dim=-1)
        right = (likeliest == rows.labels[row, column + 1]).tolist()
        ids: list[list[int]] = [[] for _ in range(len(rows.labels))]
        wrong = [False] * len(ids)
        for place, token, hit in zip(row.tolist(), likeliest.tolist(), right, strict=True):
            ids[place].append(token)
            wrong[place] |= not hit
        return [(self._text(tuple(one)), bool(one) and not bad) for one, bad in zip(ids, wrong, strict=True)]

    def _text(self, ids: tuple[int, ...]) -> str:
        if ids not in self._texts:
            self._texts[ids] = str(self.tokenizer.decode(list(ids))).strip()
        return self._texts[ids]
