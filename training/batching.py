"""From samples to what a host is asked: encoded videos, padded prompts, question rows.

Dimensions: B videos, R question rows, L columns of the longest prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..adapters.hosts import Encoded, encode, prepare
from ..adapters.hosts.prepare import Prepared
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
        types: R question types.
    """

    encoded: list[Encoded]
    inputs: dict[str, Tensor]
    times: list[Tensor]
    rows: QARows
    types: list[str]


def ask(host: Host, samples: Sequence[Sample]) -> Asked:
    """Encode the videos of a batch, once, and write its prompts; everything on the device of the host."""
    device = host.model.device
    pixels = [host.pixel_values(sample.frames.numpy()).to(device) for sample in samples]
    encoded = encode(host.model, {"pixel_values_videos": pixels})
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
    types = [question.type for sample in samples for question in sample.questions]
    times = [sample.times.to(device) for sample in samples]
    return Asked(encoded, inputs, times, QARows.concat(parts).to(device), types)


def answer(host: Host, compressor: Any, asked: Asked) -> tuple[Tensor, Prepared]:
    """Logits (R, L', V) of all question rows behind compressed videos, and what was prepared for them."""
    prepared = prepare(host.model, asked.inputs, compressor, encoded=asked.encoded, times=asked.times)
    return answer_logits(host.model, prepared.kwargs, asked.rows), prepared


def visual_tokens(host: Host, prepared: Prepared) -> float:
    """Mean number of visual tokens of a video that enter the language model, those beside the grid included."""
    ids = prepared.kwargs["input_ids"]
    return float((ids == host.model.config.video_token_id).sum()) / len(ids)
