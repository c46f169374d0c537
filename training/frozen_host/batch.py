"""Batches of encoded videos with their questions, and the answers of a host to them.

Dimensions: B videos, R question rows, L columns of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.prompt.prepare import Prepared, prepare
from framefold.data.question import Question
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import Sample

from .host import Host
from .question_rows import QuestionRows, answer_logits, build_rows


@dataclass(frozen=True)
class EncodedBatch:
    """A batch before compression; it can be compressed several times.

    Attributes:
        encoded: B videos, encoded by the vision side of the host.
        inputs: ``input_ids``, ``attention_mask`` and the other inputs that the host takes for each column, (B, L), and
            ``position_ids``, (B, L) or (axes, B, L); shorter prompts are padded on the right.
        times: B tensors of seconds.
        rows: all questions of all videos.
        questions: the same R questions as text, with evidence in steps of the grid.
    """

    encoded: list[Encoded]
    inputs: dict[str, Tensor]
    times: list[Tensor]
    rows: QuestionRows
    questions: list[Question]

    @property
    def types(self) -> list[str]:
        """R question types."""
        return [question.type for question in self.questions]

    def one_video_per_question(self) -> EncodedBatch:
        """Return R videos with one question each, in the order of the questions, for query-aware compressors."""
        owner = self.rows.video.tolist()
        return EncodedBatch(
            [self.encoded[video] for video in owner],
            {name: value[..., self.rows.video, :] for name, value in self.inputs.items()},
            [self.times[video] for video in owner],
            replace(self.rows, video=torch.arange(len(owner), device=self.rows.video.device)),
            self.questions,
        )


class BatchAnswers(NamedTuple):
    """Answers of a host to all questions of a batch.

    Attributes:
        logits: (R, L', V) at the question rows.
        prepared: the compressed videos and prompts.
        batch: the batch that was compressed; for a query-aware compressor, one video per question.
    """

    logits: Tensor
    prepared: Prepared
    batch: EncodedBatch


def encode_batch(host: Host, samples: Sequence[Sample], attention: bool = False) -> EncodedBatch:
    """Encode each video of a batch once and build the prompts, on the device of the host.

    Args:
        host: encodes the videos.
        samples: videos or stored features, with their questions.
        attention: also collect the attention that each token received in the vision encoder.

    Raises:
        DataError, HostError: See :meth:`~framefold.training.frozen_host.host.Host.encode_sample`.
    """
    return collate_encoded(host, [host.encode_sample(sample, attention) for sample in samples])


def collate_encoded(host: Host, encoded: Sequence[EncodedSample]) -> EncodedBatch:
    """Collate samples that this host has encoded or checked."""
    device = host.model.device
    columns = [{**sample.columns, "attention_mask": torch.ones_like(sample.columns["input_ids"])} for sample in encoded]
    fills = {"attention_mask": 0, "input_ids": host.family.pad_id(host.model), **host.family.columns}
    inputs = {
        name: pad_sequence([values[name] for values in columns], batch_first=True, padding_value=fills[name])
        for name in columns[0]
    }
    positions = pad_sequence([sample.positions.movedim(-1, 0) for sample in encoded], batch_first=True)
    inputs["position_ids"] = positions if positions.ndim == 2 else positions.movedim(-1, 0)
    rows = [build_rows(sample.prompts, sample.replies, sample.start) for sample in encoded]
    questions = [question for sample in encoded for question in sample.questions]
    clips = [
        Encoded(sample.features, sample.extra, sample.on_grid, sample.deepstack, attention=sample.attention)
        for sample in encoded
    ]
    times = [sample.times for sample in encoded]
    return EncodedBatch(clips, inputs, times, QuestionRows.concat(rows).to(device), questions)


def answer_questions(host: Host, compressor: Any, batch: EncodedBatch) -> BatchAnswers:
    """Answer all questions about the compressed videos; a query-aware compressor runs once per question."""
    if getattr(compressor, "query_aware", False):
        batch = batch.one_video_per_question()
    prepared = compress_batch(host, compressor, batch)
    return BatchAnswers(answer_logits(host.model, prepared.kwargs, batch.rows), prepared, batch)


def compress_batch(host: Host, compressor: Any, batch: EncodedBatch) -> Prepared:
    """Compress the videos of a batch.

    Args:
        host: whose prompts are shortened.
        compressor: called once per video.
        batch: for a query-aware compressor, the result of :meth:`EncodedBatch.one_video_per_question`.
    """
    query_aware = getattr(compressor, "query_aware", False)
    return prepare(
        host.model,
        batch.inputs,
        compressor,
        encoded=batch.encoded,
        query=[question.text for question in batch.questions] if query_aware else None,
        tokenizer=host.tokenizer,
        times=batch.times,
    )


def mean_visual_tokens(host: Host, prepared: Prepared) -> float:
    """Return the mean number of visual tokens of a video in the language model, including those outside the grid."""
    kwargs = prepared.kwargs
    return float(host.family.placeholders(host.model, kwargs).sum()) / len(kwargs["input_ids"])
