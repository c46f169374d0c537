"""From samples to what a host is asked: its visual tokens, padded prompts, question rows.

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
from framefold.data.shards.sample import Sample

from .host import Host
from .question_rows import QARows, answer_logits, write_rows


@dataclass(frozen=True)
class EncodedBatch:
    """A batch before compression, so that it can be compressed in several ways.

    Attributes:
        encoded: B videos as the host's vision side sees them.
        inputs: ``input_ids``, ``attention_mask`` and what else the host takes for each column, (B, L), and
            ``position_ids``, (B, L) or (axes, B, L); shorter prompts are padded on the right.
        times: B tensors of seconds.
        rows: all questions of all videos.
        questions: the same R questions as they were written, with evidence in steps of the grid.
    """

    encoded: list[Encoded]
    inputs: dict[str, Tensor]
    times: list[Tensor]
    rows: QARows
    questions: list[Question]

    @property
    def types(self) -> list[str]:
        """R question types."""
        return [question.type for question in self.questions]

    def alone(self) -> EncodedBatch:
        """Every question with a video of its own, in the same order: what a query-aware compressor is asked."""
        owner = self.rows.video.tolist()
        return EncodedBatch(
            [self.encoded[video] for video in owner],
            {name: value[..., self.rows.video, :] for name, value in self.inputs.items()},
            [self.times[video] for video in owner],
            replace(self.rows, video=torch.arange(len(owner), device=self.rows.video.device)),
            self.questions,
        )


class Answered(NamedTuple):
    """Logits (R, L', V) of all question rows, what was prepared for them, and the batch as it was asked."""

    logits: Tensor
    prepared: Prepared
    asked: EncodedBatch


def encode_batch(host: Host, samples: Sequence[Sample], attention: bool = False) -> EncodedBatch:
    """See the videos of a batch, once, and write its prompts; everything on the device of the host.

    Args:
        attention: also collect the attention that each token received in the vision encoder.

    Raises:
        DataError, HostError: see :meth:`~framefold.training.frozen_host.host.Host.see`.
    """
    seen = [host.see(sample, attention) for sample in samples]
    device = host.model.device
    columns = [{**sample.columns, "attention_mask": torch.ones_like(sample.columns["input_ids"])} for sample in seen]
    fills = {"attention_mask": 0, "input_ids": host.family.pad_id(host.model), **host.family.columns}
    inputs = {
        name: pad_sequence([own[name] for own in columns], batch_first=True, padding_value=fills[name])
        for name in columns[0]
    }
    positions = pad_sequence([sample.positions.movedim(-1, 0) for sample in seen], batch_first=True)
    inputs["position_ids"] = positions if positions.ndim == 2 else positions.movedim(-1, 0)
    rows = QARows.concat([write_rows(sample.prompts, sample.replies, sample.start) for sample in seen]).to(device)
    questions = [question for sample in seen for question in sample.questions]
    clips = [
        Encoded(sample.features, sample.extra, sample.on_grid, sample.deepstack, attention=sample.attention)
        for sample in seen
    ]
    return EncodedBatch(clips, inputs, [sample.times for sample in seen], rows, questions)


def answer_questions(host: Host, compressor: Any, asked: EncodedBatch) -> Answered:
    """Put all questions behind compressed videos; a query-aware compressor gets each video once a question."""
    if getattr(compressor, "query_aware", False):
        asked = asked.alone()
    prepared = compress_batch(host, compressor, asked)
    return Answered(answer_logits(host.model, prepared.kwargs, asked.rows), prepared, asked)


def compress_batch(host: Host, compressor: Any, asked: EncodedBatch) -> Prepared:
    """Compress the videos of a batch; a query-aware compressor needs :meth:`EncodedBatch.alone`."""
    alone = getattr(compressor, "query_aware", False)
    return prepare(
        host.model,
        asked.inputs,
        compressor,
        encoded=asked.encoded,
        query=[question.text for question in asked.questions] if alone else None,
        tokenizer=host.tokenizer,
        times=asked.times,
    )


def visual_tokens(host: Host, prepared: Prepared) -> float:
    """Mean number of visual tokens of a video that enter the language model, those beside the grid included."""
    kwargs = prepared.kwargs
    return float(host.family.placeholders(host.model, kwargs).sum()) / len(kwargs["input_ids"])
