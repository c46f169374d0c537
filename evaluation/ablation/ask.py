"""Ask a host all questions about held-out videos, compressed by one compressor.

Dimensions: R question rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.hosts.hooks.layer_hooks import in_llm
from framefold.adapters.hosts.prompt.prepare import Prepared
from framefold.evaluation.metrics.answers import token_overlap
from framefold.evaluation.metrics.evidence import KeptEvidence, evidence_place
from framefold.evaluation.metrics.timing import Compress, Stopwatch, TimedCompressor
from framefold.evaluation.results.result_files import mean_of_known
from framefold.evaluation.rows.keep_evidence import KeepEvidence
from framefold.training.frozen_host.batch import answer_questions, compress_batch, dropped_tokens, tokens_entered
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import IGNORE, QuestionRows, answer_logits

from .batches import HeldOutBatch

Record = dict[str, Any]


@torch.no_grad()
def evaluate_questions(
    host: Host, compressor: Compress, batches: Iterable[HeldOutBatch], kept_videos: int = 0
) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Ask every question once about its compressed video.

    Args:
        host: host that answers.
        compressor: compressor of the videos.
        batches: videos with their questions.
        kept_videos: number of videos, from the first, for which the kept tokens are recorded.

    Returns:
        One record per answer; one record of kept tokens per video, or per question if the compressor is query-aware
        (both as in :mod:`framefold.evaluation.results.result_files`); and costs: ``answering_ms``, the median over
        batches of the milliseconds per video without the compressor, and ``tokens_entered``, the mean number of visual
        tokens in the prompt of the language model, including those that the host adds to the grid, such as a newline.
        A compressor that acts inside the language model also has ``tokens_after``, their number in the last layer,
        ``tokens_mean``, the mean over the layers, and ``recall_left``, the evidence recall in the last layer.
    """
    timed, decode_answers = TimedCompressor(compressor, host.model.device), _AnswerDecoder(host)
    answers: list[Record] = []
    kept: list[Record] = []
    milliseconds, visual, prompts = [], 0.0, 0
    dropped = torch.zeros(len(host.family.decoder_layers(host.model)))
    for batch in batches:
        if isinstance(compressor, KeepEvidence):
            compressor.begin(batch)
        before = sum(timed.milliseconds)
        with Stopwatch(host.model.device) as watch:
            logits, prepared, asked = answer_questions(host, timed, batch.encoded)
        compressing = sum(timed.milliseconds) - before
        milliseconds.append((1000 * watch.seconds - compressing) / len(batch.numbers))
        visual += tokens_entered(host, prepared) * len(asked.encoded)
        dropped += torch.tensor(dropped_tokens(host, prepared)) * len(asked.encoded)
        prompts += len(asked.encoded)
        if batch.numbers[0] < kept_videos:
            first = len(answers) if timed.query_aware else None
            kept += _kept_tokens(batch, prepared.tokens, first, kept_videos)
        records = list(_answers(batch, asked.rows.video.tolist(), prepared, decode_answers(logits, asked.rows)))
        for record, again in zip(records, _ask_again(host, compressor, batch, decode_answers), strict=False):
            record["again"] = again
        answers += records
    costs: dict[str, Any] = {"answering_ms": float(np.median(milliseconds)), "tokens_entered": visual / prompts}
    if timed.in_llm is not None:
        left = visual / prompts - dropped / prompts
        recall = mean_of_known([answer["recall_left"] for answer in answers])
        costs |= {"tokens_after": float(left[-1]), "tokens_mean": float(left.mean()), "recall_left": recall}
    return answers, kept, costs


def _answers(
    batch: HeldOutBatch, prompts: list[int], prepared: Prepared, decoded: list[DecodedAnswer]
) -> Iterator[Record]:
    """Yield one record per answer.

    Args:
        batch: videos with R questions.
        prompts: (R,) index of the compressed video in the prompt of each question.
        prepared: compressed videos.
        decoded: (R,) answers.
    """
    kept = [KeptEvidence.of(video) for video in prepared.tokens]
    places = prepared.prompt.places if prepared.prompt else ()
    left = [KeptEvidence.of(place.last) for place in places]
    means = [place.mean_tokens for place in places]
    videos = batch.encoded.rows.video.tolist()
    for row, (video, prompt, said) in enumerate(zip(videos, prompts, decoded, strict=True)):
        question, evidence = batch.encoded.questions[row], batch.evidence[row]
        yield {
            "video": batch.numbers[video],
            "draw": batch.clusters[video],
            "type": question.type,
            "question": question.text,
            "answer": question.answer,
            "said": said.text,
            "correct": said.correct,
            "loss": said.loss,
            "overlap": said.overlap,
            "losses": list(said.losses) if len(said.losses) > 1 else None,
            "tokens": round(means[prompt]),
            "recall": kept[prompt].recall(evidence),
            "purity": kept[prompt].purity(evidence),
            "recall_left": left[prompt].recall(evidence),
            **dict(zip(("when", "where"), evidence_place(evidence, prepared.tokens[prompt].grid), strict=True)),
        }


def _ask_again(
    host: Host, compressor: Compress, batch: HeldOutBatch, decode_answers: _AnswerDecoder
) -> list[bool | None]:
    """Return whether each question is answered from the video as compressed for the question before it.

    It is None for the questions of a video that has no other one. The list is empty for compressors that do not read
    the question, or read it inside the language model, where both are one forward.
    """
    stage = getattr(compressor, "in_llm", None)
    if not getattr(compressor, "query_aware", False) or (stage is not None and stage.reads):
        return []
    owners = batch.encoded.rows.video.tolist()
    groups = [[row for row, owner in enumerate(owners) if owner == video] for video in range(len(batch.numbers))]
    before = {row: other for rows in groups for row, other in zip(rows, rows[-1:] + rows[:-1], strict=True)}
    encoded = batch.encoded.one_video_per_question()
    asked_before = replace(encoded, questions=[encoded.questions[before[row]] for row in range(len(owners))])
    if isinstance(compressor, KeepEvidence):
        compressor.begin(replace(batch, evidence=[batch.evidence[before[row]] for row in range(len(owners))]))
    with in_llm(host.model, compressor):
        prepared = compress_batch(host, compressor, asked_before)
        decoded = decode_answers(answer_logits(host.model, prepared.kwargs, encoded.rows), encoded.rows)
    return [said.correct if before[row] != row else None for row, said in enumerate(decoded)]


def _kept_tokens(
    batch: HeldOutBatch, tokens: list[VideoTokens], first: int | None, kept_videos: int
) -> Iterator[Record]:
    """Yield the kept tokens of each video, or of each question if ``first``, the number of the first one, is given."""
    videos = range(len(batch.numbers)) if first is None else batch.encoded.rows.video.tolist()
    for number, (video, kept) in enumerate(zip(videos, tokens, strict=True)):
        if batch.numbers[video] < kept_videos:
            merged = bool((kept.size != 1).any())
            yield {
                "video": batch.numbers[video],
                "key": batch.keys[video],
                "row": None if first is None else first + number,
                "grid": list(kept.grid),
                "index": kept.index.tolist(),
                "size": kept.size.tolist() if merged else None,
            }


@dataclass(frozen=True)
class DecodedAnswer:
    """The greedy answer of a host to a question, compared with the right one.

    Attributes:
        text: as many tokens as the right answer has, each after the right tokens before it.
        correct: whether they are those of the right answer.
        loss: mean negative log-likelihood of the tokens of the right answer, in nats.
        overlap: F1 of both bags of tokens, without special tokens.
        losses: negative log-likelihood of each token of the right answer, without special tokens, rounded.
    """

    text: str
    correct: bool
    loss: float
    overlap: float
    losses: tuple[float, ...] = ()


class _AnswerDecoder:
    """Decodes the greedy answers of a host and compares them with the right ones."""

    def __init__(self, host: Host) -> None:
        self.tokenizer, self._texts = host.tokenizer, dict[tuple[int, ...], str]()
        self._special = set(host.tokenizer.all_special_ids)

    def __call__(self, logits: Tensor, rows: QuestionRows) -> list[DecodedAnswer]:
        """Return the answer to each question.

        An answer is right if every token of the right answer is the likeliest one after the tokens before it.
        """
        row, column = (rows.labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        scores, right = logits[row, column], rows.labels[row, column + 1]
        losses = torch.nn.functional.cross_entropy(scores.float(), right, reduction="none")
        answers: list[list[tuple[int, int, float]]] = [[] for _ in range(len(rows.labels))]
        columns = (row, scores.argmax(dim=-1), right, losses)
        for number, *token in zip(*(values.tolist() for values in columns), strict=True):
            answers[number].append(tuple(token))
        return [self._compare(tokens) for tokens in answers]

    def _compare(self, tokens: list[tuple[int, int, float]]) -> DecodedAnswer:
        """Return an answer of which each token is given as (likeliest, right, loss)."""
        said, right, losses = (tuple(values) for values in zip(*tokens, strict=True)) if tokens else ((), (), ())
        bags = [[token for token in ids if token not in self._special] for ids in (said, right)]
        loss = sum(losses) / max(1, len(losses))
        each = tuple(round(one, 3) for token, one in zip(right, losses, strict=True) if token not in self._special)
        return DecodedAnswer(self._text(said), bool(said) and said == right, loss, token_overlap(*bags), each)

    def _text(self, ids: tuple[int, ...]) -> str:
        if ids not in self._texts:
            self._texts[ids] = str(self.tokenizer.decode(list(ids))).strip()
        return self._texts[ids]
