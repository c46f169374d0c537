"""From samples to what a host is asked: encoded videos, padded prompts, question rows.

Dimensions: B videos, R question rows, L columns of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..adapters.hosts import Encoded, encode, prepare
from ..adapters.hosts.prepare import Prepared
from ..data.questions import Question
from ..data.samples import Sample
from .hostio import Host
from .qa import QARows, answer_logits, build_prompt


@dataclass(frozen=True)
class Asked:
    """A batch before compression, so that it can be compressed in several ways.

    Attributes:
        encoded: B videos as the host's vision side sees them.
        inputs: ``input_ids`` and ``attention_mask``, (B, L), videos of fewer frames padded on the right.
        times: B tensors of seconds.
        rows: all questions of all videos.
        questions: the same R questions as they were written.
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

    def alone(self) -> Asked:
        """Every question with a video of its own, in the same order: what a query-aware compressor is asked."""
        owner = self.rows.video.tolist()
        return Asked(
            [self.encoded[video] for video in owner],
            {name: value[self.rows.video] for name, value in self.inputs.items()},
            [self.times[video] for video in owner],
            replace(self.rows, video=torch.arange(len(owner), device=self.rows.video.device)),
            self.questions,
        )


class Answered(NamedTuple):
    """Logits (R, L', V) of all question rows, what was prepared for them, and the batch as it was asked."""

    logits: Tensor
    prepared: Prepared
    asked: Asked


def ask(host: Host, samples: Sequence[Sample], attention: bool = False) -> Asked:
    """Encode the videos of a batch, once, and write its prompts; everything on the device of the host.

    Args:
        attention: also collect the attention that each token received in the vision encoder.
    """
    device = host.model.device
    pixels = [host.pixel_values(sample.frames.numpy()).to(device) for sample in samples]
    encoded = encode(host.model, {"pixel_values_videos": pixels}, attention)
    prefixes, parts = [], []
    for sample, video in zip(samples, encoded, strict=True):
        texts, answers = zip(*((question.text, question.answer) for question in sample.questions), strict=True)
        prefix, rows = build_prompt(host.tokenizer, texts, answers, len(video), host.model.config.video_token_id)
        prefixes.append(prefix)
        parts.append(rows)
    ones = [torch.ones_like(prefix) for prefix in prefixes]
    pad = host.model.config.get_text_config().pad_token_id or 0
    inputs = {
        "input_ids": pad_sequence(prefixes, batch_first=True, padding_value=pad).to(device),
        "attention_mask": pad_sequence(ones, batch_first=True).to(device),
    }
    questions = [question for sample in samples for question in sample.questions]
    times = [sample.times.to(device) for sample in samples]
    return Asked(encoded, inputs, times, QARows.concat(parts).to(device), questions)


def answer(host: Host, compressor: Any, asked: Asked) -> Answered:
    """Put all questions behind compressed videos; a query-aware compressor gets each video once a question."""
    if getattr(compressor, "query_aware", False):
        asked = asked.alone()
    prepared = compress(host, compressor, asked)
    return Answered(answer_logits(host.model, prepared.kwargs, asked.rows), prepared, asked)


def compress(host: Host, compressor: Any, asked: Asked) -> Prepared:
    """The videos of a batch through a compressor; a query-aware one wants a batch that is :meth:`Asked.alone`."""
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
    ids = prepared.kwargs["input_ids"]
    return float((ids == host.model.config.video_token_id).sum()) / len(ids)
