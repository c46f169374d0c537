"""Batches of encoded videos with their questions, and the answers of a host to them.

Dimensions: B videos, R question rows, L columns of the longest prompt, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.hooks.key_bias import biased_keys
from framefold.adapters.hosts.hooks.layer_hooks import in_llm
from framefold.adapters.hosts.prompt.prepare import COMPACTED_NAME, Prepared, prepare
from framefold.data.question import Question
from framefold.data.shards.encoded import EncodedSample
from framefold.data.shards.sample import Sample
from framefold.training.memory.head_columns import head_columns

from .host import Host
from .question_rows import IGNORE, QuestionRows, build_rows, prefill, row_positions


@dataclass(frozen=True)
class EncodedBatch:
    """A batch before compression; it can be compressed several times.

    Attributes:
        encoded: B videos, encoded by the vision side of the host.
        inputs: ``input_ids``, ``attention_mask`` and the other inputs that the host takes for each column, (B, L), and
            ``position_ids``, (B, L) or (axes, B, L); shorter prompts are padded on the right, those of hosts with
            ``pads_left`` on the left.
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
        logits: (R, A, V) at the rows of ``batch``; (R, 0, 0) if the language model did not run.
        prepared: the compressed videos and prompts.
        batch: the batch that was compressed, with its rows cut to their answers, see :func:`answer_windows`; for a
            query-aware compressor, and in training of a recurrent host, one video per question.
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
    side = "left" if host.family.pads_left else "right"
    inputs = {name: pad_sequence([values[name] for values in columns], True, fills[name], side) for name in columns[0]}
    positions = pad_sequence([sample.positions.movedim(-1, 0) for sample in encoded], True, padding_side=side)
    inputs["position_ids"] = positions if positions.ndim == 2 else positions.movedim(-1, 0)
    rows = [build_rows(sample.prompts, sample.replies, sample.start) for sample in encoded]
    questions = [question for sample in encoded for question in sample.questions]
    clips = [
        Encoded(sample.features, sample.extra, sample.on_grid, sample.deepstack, attention=sample.attention)
        for sample in encoded
    ]
    times = [sample.times for sample in encoded]
    return EncodedBatch(clips, inputs, times, QuestionRows.concat(rows).to(device), questions)


def answer_questions(host: Host, compressor: Any, batch: EncodedBatch, logits: bool = True) -> BatchAnswers:
    """Answer all questions about the compressed videos.

    A query-aware compressor runs once per question. So does all training of recurrent hosts, because the forward over
    the question rows overwrites the state of their prefill, which gradients need.

    Args:
        host: host that answers.
        compressor: called once per video or question.
        batch: videos and questions.
        logits: run the language model; without it, the videos are only compressed, as losses of scores need it.
    """
    alone = host.family.recurrent and torch.is_grad_enabled()
    if alone or getattr(compressor, "query_aware", False):
        batch = batch.one_video_per_question()
    stage = getattr(compressor, "in_llm", None)
    windows, rows = answer_windows(batch.rows)
    with in_llm(host.model, compressor), biased_keys(host.model, compressor):
        prepared = compress_batch(host, compressor, batch)
        if not logits:
            return BatchAnswers(windows.new_empty(len(windows), 0, 0, dtype=torch.float32), prepared, batch)
        if alone or (stage is not None and stage.reads):
            kwargs = complete_prompts(host, prepared, batch.rows) | {"use_cache": False}
        else:
            kwargs = prefill(host.model, prepared.kwargs, batch.rows)
        with head_columns(host.model, windows, batch.rows.input_ids.shape[1]):
            found = host.model(**kwargs).logits
    return BatchAnswers(found, prepared, replace(batch, rows=rows))


def answer_windows(rows: QuestionRows) -> tuple[Tensor, QuestionRows]:
    """Cut rows to the token before the first label of each row and all tokens up to its last label.

    A row without labels is cut to its last token.

    Returns:
        (R, A) int64 columns, and the rows there, (R, A).
    """
    width = rows.labels.shape[1]
    steps = torch.arange(width, device=rows.labels.device)
    labelled = rows.labels != IGNORE
    last = torch.where(labelled.any(1), (labelled * steps).amax(1), rows.attention_mask.sum(1) - 1)
    first = torch.where(labelled.any(1), (labelled.int().argmax(1) - 1).clamp(min=0), last)
    columns = first[:, None] + steps[: int((last - first).max()) + 1]
    inside = columns <= last[:, None]
    columns = columns.clamp(max=width - 1)
    ids, mask, labels = (
        torch.where(inside, value.gather(1, columns), fill)
        for value, fill in ((rows.input_ids, 0), (rows.attention_mask, 0), (rows.labels, IGNORE))
    )
    return columns, QuestionRows(ids, mask, labels, rows.video, rows.start + first)


def compress_batch(host: Host, compressor: Any, batch: EncodedBatch) -> Prepared:
    """Compress the videos of a batch.

    Args:
        host: whose prompts are shortened.
        compressor: called once per video.
        batch: for a query-aware compressor, the result of :meth:`EncodedBatch.one_video_per_question`.
    """
    needs_query = getattr(compressor, "needs_query", getattr(compressor, "query_aware", False))
    return prepare(
        host.model,
        batch.inputs,
        compressor,
        encoded=batch.encoded,
        query=[question.text for question in batch.questions] if needs_query else None,
        tokenizer=host.tokenizer,
        times=batch.times,
    )


def complete_prompts(host: Host, prepared: Prepared, rows: QuestionRows) -> dict[str, Any]:
    """Return the arguments of a forward over R prefixes and one question row about each, answers included.

    Compressors that read the question inside the language model need it in the forward that reads the video. The prompt
    that the hooks see ends before the answer, so that the last token of the question asks.
    """
    prefix, mask, names = prepared.kwargs, prepared.kwargs["attention_mask"], host.family.columns
    kwargs = dict(prefix)
    kwargs["input_ids"] = torch.cat([prefix["input_ids"], rows.input_ids], 1)
    kwargs["attention_mask"] = torch.cat([mask, rows.attention_mask], 1)
    positions = row_positions(prefix, rows, rows.input_ids.shape)
    kwargs["position_ids"] = torch.cat([prefix["position_ids"], positions], -1)
    for name, fill in names.items():
        if prefix.get(name) is not None:
            kwargs[name] = torch.cat([prefix[name], torch.full_like(rows.input_ids, fill).to(prefix[name])], 1)
    asked = rows.attention_mask * (rows.labels == IGNORE).cumprod(1)
    kwargs["mm_encoder_outputs"] = _with_mask(prefix["mm_encoder_outputs"], torch.cat([mask, asked], 1))
    return kwargs


def _with_mask(outputs: Mapping[str, Any], mask: Tensor) -> dict[str, Any]:
    """Return the encoder outputs with another mask of the prompt; those of the prefixes are not changed."""
    changed = {}
    for modality, value in outputs.items():
        changed[modality] = value
        if (prompt := getattr(value, COMPACTED_NAME, None)) is not None:
            changed[modality] = copy(value)
            setattr(changed[modality], COMPACTED_NAME, replace(prompt, mask=mask))
    return changed


def dropped_tokens(host: Host, prepared: Prepared) -> list[float]:
    """Return, for each decoder layer, the mean number of tokens of a video that it lacked in the last forward."""
    places = prepared.prompt.places if prepared.prompt else ()
    layers = len(host.family.decoder_layers(host.model))
    dropped = [[len(place.tokens.index) - len(place.in_layer(n).index) for place in places] for n in range(layers)]
    return [sum(counts) / max(1, len(counts)) for counts in dropped]


def tokens_entered(host: Host, prepared: Prepared) -> float:
    """Return the mean number of visual tokens of a video in the shortened prompts, including those outside the grid."""
    kwargs = prepared.kwargs
    return float(host.family.placeholders(host.model, kwargs).sum()) / len(kwargs["input_ids"])


def mean_visual_tokens(host: Host, prepared: Prepared) -> float:
    """Return the same as :func:`tokens_entered`, as the mean over the decoder layers of the last forward."""
    dropped = dropped_tokens(host, prepared)
    return tokens_entered(host, prepared) - sum(dropped) / len(dropped)
