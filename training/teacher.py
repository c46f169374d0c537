"""The host on all visual tokens as a teacher: its logits, and the attention of its questions.

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
from framefold.training.frozen_host.batch import EncodedBatch, compress_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import prefill

from .lora import without_lora


@dataclass(frozen=True)
class TeacherOutputs:
    """Outputs of the host on uncompressed videos.

    Attributes:
        logits: (R, L, V) at the question rows.
        attention: R tensors (N,), fp32, attention of a question to the grid of its video; empty if not requested.
    """

    logits: Tensor
    attention: list[Tensor]


@torch.no_grad()
def teacher_outputs(host: Host, batch: EncodedBatch, attention: bool = False) -> TeacherOutputs:
    """Run the host on all visual tokens, without the LoRA in training, with one prefill per video.

    Args:
        host: the frozen host; LoRA that was injected into it is disabled during the call.
        batch: each video once.
        attention: also return the attention of each question, a mean over layers of the sum over heads and over the
            columns of the question.
    """
    with without_lora(host.model):
        prefix = compress_batch(host, build("identity", 1.0), batch).kwargs
        rows = prefill(host.model, prefix, batch.rows)
        if not attention:
            return TeacherOutputs(host.model(**rows).logits, [])
        with eager_attention(host.model):
            out = host.model(**rows, output_attentions=True)
    columns = batch.rows.attention_mask[:, None, :, None]
    weights = torch.stack([(layer.float() * columns).sum((1, 2)) for layer in out.attentions]).mean(0)
    return TeacherOutputs(
        out.logits, [_attention_to_grid(host, batch, row, weights[row]) for row in range(len(weights))]
    )


def _attention_to_grid(host: Host, batch: EncodedBatch, row: int, weights: Tensor) -> Tensor:
    """Select the weights (N,) of the grid of the row's video from the weights of all columns."""
    video = int(batch.rows.video[row])
    clip = batch.encoded[video]
    columns = host.family.placeholders(host.model, batch.inputs)[video].nonzero()[: len(clip), 0]
    return weights[columns[clip.on_grid]]


@contextlib.contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use eager attention in the language model, the only implementation that returns its weights."""
    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
