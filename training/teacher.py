"""The host on all visual tokens as a teacher: its logits, and the attention of its questions.

Dimensions: R question rows, L columns of a row, V vocabulary, N visual tokens of a video.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.base.build import build
from framefold.errors import ConfigError
from framefold.messages import one_line
from framefold.training.frozen_host.batch import EncodedBatch, answer_windows, compress_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.question_rows import IGNORE, QuestionRows, prefill
from framefold.training.memory.head_columns import head_columns

from .lora import without_lora

Heads = Literal["mean", "max"]


@dataclass(frozen=True)
class TeacherAttention:
    """Which attention of the host the losses "attention" and "rank" read; 'framefold bench teacher' compares layers.

    Args:
        layers: decoder layers from 0, whose attention is averaged; by default all. In hosts with several kinds of
            layers, only those with full attention count.
        heads: mean or max over the heads and over the tokens of the question.
        answers: count the tokens of the answer as part of the question, as far as it is known: then answers are labels.

    Raises:
        ConfigError: a value is out of range.
    """

    layers: list[int] | None = None
    heads: Heads = "mean"
    answers: bool = True

    def __post_init__(self) -> None:
        layers = self.layers
        if layers is not None and (not layers or min(layers) < 0 or len(set(layers)) < len(layers)):
            raise ConfigError(f"teacher: layers must be different numbers from 0 of decoder layers, got {layers}")
        if self.heads not in get_args(Heads):
            raise ConfigError(f"teacher: heads must be one of {get_args(Heads)}, got {self.heads!r}")

    def check_layers(self, count: int) -> None:
        """Check the layers against the number that the host has.

        Raises:
            ConfigError: there is no such layer.
        """
        if self.layers is not None and max(self.layers) >= count:
            raise ConfigError(f"teacher: this host has layers 0 to {count - 1}, got layers={self.layers}")

    def asking(self, rows: QuestionRows) -> Tensor:
        """Return (R, L), 1 for the tokens whose attention counts, 0 for others and for padding."""
        return rows.attention_mask if self.answers else rows.attention_mask * (rows.labels == IGNORE)

    def reduce(self, layers: Sequence[Tensor], asking: Tensor) -> Tensor:
        """Return the (R, K) attention that columns receive from the question, in fp32.

        Args:
            layers: (R, h, L, K) attention weights of each decoder layer.
            asking: (R, L) from :meth:`asking`.
        """
        self.check_layers(len(layers))
        chosen = layers if self.layers is None else [layers[layer] for layer in self.layers]
        columns = asking[:, None, :, None]
        weights = [layer.float() * columns for layer in chosen]
        if self.heads == "max":
            return torch.stack([layer.amax((1, 2)) for layer in weights]).mean(0)
        return torch.stack([layer.sum((1, 2)) for layer in weights]).mean(0)


def resolve_teacher(given: TeacherAttention | Mapping[str, Any] | None) -> TeacherAttention:
    """Return the settings of a configuration or of a checkpoint, or the default.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    if isinstance(given, TeacherAttention):
        return given
    try:
        return TeacherAttention(**(given or {}))
    except TypeError as error:
        raise ConfigError(f"teacher: {one_line(error)}") from error


@dataclass(frozen=True)
class TeacherOutputs:
    """Outputs of the host on uncompressed videos.

    Attributes:
        logits: (R, A, V) at the answers, as those of the student.
        attention: R tensors (N,), fp32, attention of a question to the grid of its video; empty if not requested.
    """

    logits: Tensor
    attention: list[Tensor]


def teacher_outputs(host: Host, batch: EncodedBatch, attention: TeacherAttention | None = None) -> TeacherOutputs:
    """Run the host on all visual tokens, without the LoRA in training, with one prefill per video.

    Args:
        host: the frozen host; LoRA that was injected into it is disabled during the call.
        batch: each video once.
        attention: which attention of each question to return as well; None for none.
    """
    logits, found = compare_attention(host, batch, [] if attention is None else [attention])
    return TeacherOutputs(logits, found[0] if found else [])


@torch.no_grad()
def compare_attention(
    host: Host, batch: EncodedBatch, settings: Sequence[TeacherAttention]
) -> tuple[Tensor, list[list[Tensor]]]:
    """Return the logits of the host on all visual tokens, and the attention of each question by several settings.

    Args:
        host: see :func:`teacher_outputs`.
        batch: each video once.
        settings: which attention to return.

    Returns:
        (R, A, V) logits at the answers, see :func:`~framefold.training.frozen_host.batch.answer_windows`; and for each
        setting R tensors (N,).
    """
    windows, _ = answer_windows(batch.rows)
    selected = head_columns(host.model, windows, batch.rows.input_ids.shape[1])
    with without_lora(host.model):
        prefix = compress_batch(host, build("identity", 1.0), batch).kwargs
        rows = prefill(host.model, prefix, batch.rows)
        if not settings:
            with selected:
                return host.model(**rows).logits, []
        with eager_attention(host.model), selected:
            out = host.model(**rows, output_attentions=True)
    found = []
    layers = _with_full_attention(host.model, out.attentions)
    for one in settings:
        weights = one.reduce(layers, one.asking(batch.rows))
        found.append([_attention_to_grid(host, batch, row, weights[row]) for row in range(len(weights))])
    return out.logits, found


def _with_full_attention(model: PreTrainedModel, layers: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the weights of the layers that see all columns, of those that returned weights."""
    types: list[str] = getattr(model.config.get_text_config(), "layer_types", None) or []
    if "sliding_attention" not in types:
        return layers
    return [weights for weights, kind in zip(layers, types, strict=True) if kind == "full_attention"]


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
