"""The host on all visual tokens as a teacher: what it answers, and what its questions look at.

Dimensions: R question rows, L columns of a row, V vocabulary, N visual tokens of a video.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.base.build import build
from framefold.training.frozen_host.ask import EncodedBatch, compress_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import prefill

from .lora import without_lora


@dataclass(frozen=True)
class Teacher:
    """What the host makes of whole videos.

    Attributes:
        logits: (R, L, V) at the question rows.
        attention: R tensors (N,), the attention of a question to the grid of its video, fp32; empty if not wanted.
    """

    logits: Tensor
    attention: list[Tensor]


@torch.no_grad()
def teach(host: Host, asked: EncodedBatch, attention: bool = False) -> Teacher:
    """Ask the host with all visual tokens and without the LoRA that is being trained, one prefill a video.

    Args:
        attention: also return where the questions look: the mean over layers, heads and columns of the question.
    """
    with without_lora(host.model):
        prefix = compress_batch(host, build("identity", 1.0), asked).kwargs
        rows = prefill(host.model, prefix, asked.rows)
        if not attention:
            return Teacher(host.model(**rows).logits, [])
        with eager(host.model):
            out = host.model(**rows, output_attentions=True)
    columns = asked.rows.attention_mask[:, None, :, None]
    weights = torch.stack([(layer.float() * columns).sum((1, 2)) for layer in out.attentions]).mean(0)
    return Teacher(out.logits, [_on_grid(host, asked, row, weights[row]) for row in range(len(weights))])


def _on_grid(host: Host, asked: EncodedBatch, row: int, weights: Tensor) -> Tensor:
    """(N,) of the weights on all columns of a row: those of its video's grid."""
    video = int(asked.rows.video[row])
    clip = asked.encoded[video]
    columns = host.family.placeholders(host.model, asked.inputs)[video].nonzero()[: len(clip), 0]
    return weights[columns[clip.on_grid]]


@contextlib.contextmanager
def eager(model: PreTrainedModel) -> Iterator[None]:
    """Let the language model compute its attention in the one way that shows its weights."""
    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
