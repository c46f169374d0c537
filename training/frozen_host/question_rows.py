"""Many questions about a video with one prefill.

The prefix (text before the video, and its visual tokens) runs once; its cache is repeated for the questions, and the
question rows run on top of it. The result equals one full prompt per question. It costs one prefill, needs no 4-D mask
and is differentiable, so it can train compressors and hosts. Positions are preserved: question rows start at the
position after the uncompressed video.

Shapes: B videos, R question rows, Lp prefix length, L row length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from framefold.adapters.hosts.hooks.layer_cache import select_cache_rows
from framefold.errors import PromptError

from .answer_format import split_prompts

IGNORE = -100


@dataclass(frozen=True)
class QuestionRows:
    """Question rows over shared prefixes, on the device of the model.

    Attributes:
        input_ids: (R, L), padded on the right.
        attention_mask: (R, L), padded on the right.
        labels: (R, L), padded on the right; IGNORE except at the tokens of the answer.
        video: (R,) batch element whose prefix the row continues.
        start: (R,) position of the row's first token.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    video: Tensor
    start: Tensor

    def to(self, device: torch.device | str) -> QuestionRows:
        """Move all rows to a device."""
        return QuestionRows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def answers(self) -> Tensor:
        """Return (R,) the first answer token of each row; IGNORE where a row has none."""
        return self.labels.gather(1, _first_answer(self.labels)[:, None])[:, 0]

    @staticmethod
    def concat(parts: Sequence[QuestionRows]) -> QuestionRows:
        """Concatenate the rows of several batch elements; part i continues prefix i."""
        width = max(part.input_ids.shape[1] for part in parts)

        def join(name: str, fill: int) -> Tensor:
            return torch.cat([F.pad(t, (0, width - t.shape[1]), value=fill) for t in (getattr(p, name) for p in parts)])

        video = torch.cat([torch.full_like(part.video, i) for i, part in enumerate(parts)])
        start = torch.cat([part.start for part in parts])
        return QuestionRows(join("input_ids", 0), join("attention_mask", 0), join("labels", IGNORE), video, start)


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str] | None,
    n_placeholders: int,
    video_token_id: int,
    *,
    end: bool = False,
) -> tuple[Tensor, QuestionRows]:
    """Build the prefix and the rows of one video's questions with the tokenizer's chat template.

    The prefix ends with the last placeholder of the video, so prefixes of equally long videos are equal and can be
    stacked into a batch. Rows start at position Lp, even if placeholders are removed later.

    Args:
        tokenizer: with a chat template.
        questions: about the video.
        answers: one per question; None for rows without labels.
        n_placeholders: number of visual tokens of the video.
        video_token_id: id of the placeholder.
        end: also label the end-of-text token, which trains a host to stop.

    Returns:
        Prefix ids (Lp,), and the rows.

    Raises:
        PromptError: There is no question, a prompt does not have exactly one video, or text that differs between
            questions precedes the video.
    """
    if not questions or (answers is not None and len(answers) != len(questions)):
        raise PromptError(f"got {len(questions)} questions and {'no' if answers is None else len(answers)} answers")
    prefix, prompts = split_prompts(tokenizer, questions, n_placeholders, video_token_id)
    replies = [answer_ids(tokenizer, answer, end) for answer in answers] if answers is not None else [[]] * len(prompts)
    return torch.tensor(prefix), build_rows(prompts, replies, len(prefix))


def build_rows(prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], start: int) -> QuestionRows:
    """Build the rows of one video's questions.

    Args:
        prompts: for each question, the ids between prefix and answer.
        replies: for each question, the ids to label; may be empty.
        start: position of the column after the prefix.
    """
    width = max(len(prompt) + len(reply) for prompt, reply in zip(prompts, replies, strict=True))
    ids, mask, labels = (torch.full((len(prompts), width), fill) for fill in (0, 0, IGNORE))
    for row, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        n, m = len(prompt), len(prompt) + len(reply)
        ids[row, :m] = torch.tensor([*prompt, *reply])
        mask[row, :m] = 1
        labels[row, n:m] = torch.tensor(reply, dtype=torch.long)
    video = torch.zeros(len(prompts), dtype=torch.long)
    return QuestionRows(ids, mask, labels, video, video + start)


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str, end: bool = False) -> list[int]:
    """Return the ids of an answer, with ``end`` followed by the end-of-text token."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return ids + [tokenizer.eos_token_id] if end else ids


def answer_logits(model: PreTrainedModel, prefix: dict[str, Any], rows: QuestionRows) -> Tensor:
    """Return logits (R, L, V) at the tokens of the rows, with one prefill of their videos.

    Args:
        model: of the host.
        prefix: keyword arguments of the host's forward for B prefixes: input_ids or inputs_embeds, features, an
            attention_mask (B, Lp), and position_ids if tokens were removed. Without a mask, transformers would treat
            gaps in the positions as boundaries between packed sequences.
        rows: questions about the prefixes.

    Raises:
        PromptError: The prefix has no attention_mask.
    """
    return model(**prefill(model, prefix, rows)).logits


def prefill(model: PreTrainedModel, prefix: dict[str, Any], rows: QuestionRows) -> dict[str, Any]:
    """Run the prefixes, and return the keyword arguments for a forward over the question rows after them.

    Raises:
        PromptError: The prefix has no attention_mask.
    """
    if prefix.get("attention_mask") is None:
        raise PromptError("the prefix needs an attention_mask, all ones if nothing is padded")
    cache = model(**prefix, use_cache=True, logits_to_keep=1).past_key_values
    select_cache_rows(cache, rows.video)
    return question_inputs(prefix, rows, cache)


def question_inputs(prefix: dict[str, Any], rows: QuestionRows, cache: Any) -> dict[str, Any]:
    """Return the keyword arguments for a forward over question rows after their prefixes.

    Args:
        prefix: keyword arguments of the forward over B prefixes.
        rows: R questions about them.
        cache: keys and values of R prefixes, in the order of the rows.
    """
    mask = torch.cat([prefix["attention_mask"][rows.video], rows.attention_mask], dim=1)
    return {
        "input_ids": rows.input_ids,
        "attention_mask": mask,
        "position_ids": row_positions(prefix, rows, rows.input_ids.shape),
        "past_key_values": cache,
        "use_cache": True,
    }


def packed_logits(model: PreTrainedModel, prefix: dict[str, Any], rows: QuestionRows) -> Tensor:
    """Return the same as :func:`answer_logits`, with the rows of a video packed after one copy of its cache.

    The cache is not repeated, which saves a third of a training step with 12 questions on 1024 tokens. Supports sdpa
    and eager attention only.

    Raises:
        PromptError: The prefix has no attention_mask, the number of rows differs between videos, or the rows of a video
            are not adjacent.
    """
    prefix_mask = prefix.get("attention_mask")
    if prefix_mask is None:
        raise PromptError("the prefix needs an attention_mask, all ones if nothing is padded")
    videos, length = len(prefix_mask), rows.input_ids.shape[1]
    each = len(rows.video) // videos
    if not torch.equal(rows.video.cpu(), torch.arange(videos).repeat_interleave(each)):
        raise PromptError("packing needs equally many question rows for every video, in the videos' order")
    cache = model(**prefix, use_cache=True, logits_to_keep=1).past_key_values
    output = model(
        input_ids=rows.input_ids.view(videos, -1),
        attention_mask=_packed_mask(model, prefix_mask, rows, each),
        position_ids=row_positions(prefix, rows, (videos, -1)),
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits.reshape(len(rows.video), length, -1)


def _packed_mask(model: PreTrainedModel, prefix_mask: Tensor, rows: QuestionRows, each: int) -> Tensor:
    """Return the mask (B, 1, each * L, Lp + each * L) under which packed rows see their prefix and themselves."""
    videos, length = len(prefix_mask), rows.input_ids.shape[1]
    steps = torch.arange(length, device=rows.start.device)
    causal = rows.attention_mask.bool()[:, None, :] & (steps[:, None] >= steps)  # (R, L, L) inside a row
    blocks = causal.new_zeros(videos, each, length, each, length)
    row = torch.arange(each, device=causal.device)
    blocks[:, row, :, row] = causal.view(videos, each, length, length).movedim(1, 0)
    prefix_columns = prefix_mask.bool()[:, None, :].expand(-1, each * length, -1)
    mask = torch.cat([prefix_columns, blocks.flatten(3).flatten(1, 2)], dim=-1)[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":  # which adds the mask instead of applying it
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
    return mask


def row_positions(prefix: dict[str, Any], rows: QuestionRows, shape: Sequence[int]) -> Tensor:
    """Return the positions of the rows' tokens in this shape, with a leading axis if those of the prefix have one."""
    steps = torch.arange(rows.input_ids.shape[1], device=rows.start.device)
    positions = (rows.start[:, None] + steps).view(shape)
    columns = prefix.get("position_ids")
    if columns is not None and columns.ndim == 3:  # M-RoPE: text has the same position on every axis
        positions = positions.expand(columns.shape[0], -1, -1)
    return positions


def answer_loss(logits: Tensor, rows: QuestionRows, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy in nats of the labelled tokens, each predicted from the token before it.

    Args:
        logits: (R, L, V).
        rows: the R questions.
        weights: (R,) of the tokens of each row in the mean; by default all equal.
    """
    predicted, labels = logits[:, :-1].flatten(0, 1).float(), rows.labels[:, 1:]
    if weights is None:
        return F.cross_entropy(predicted, labels.flatten(), ignore_index=IGNORE)
    losses = F.cross_entropy(predicted, labels.flatten(), ignore_index=IGNORE, reduction="none").view_as(labels)
    shares = weights[:, None] * (labels != IGNORE)
    return (losses * shares).sum() / shares.sum()


def answer_mask(rows: QuestionRows) -> Tensor:
    """Return (R, L) bool, the tokens whose logits predict an answer token; in a row without labels, its last token."""
    mask = F.pad(rows.labels[:, 1:] != IGNORE, (0, 1), value=False)
    last = F.one_hot(rows.attention_mask.sum(dim=1) - 1, mask.shape[1]).bool()
    return torch.where(mask.any(dim=1, keepdim=True), mask, last)


def predict(logits: Tensor, rows: QuestionRows) -> Tensor:
    """Return (R,) the greedy first answer token of each row; in a row without labels, the token after its last one."""
    at = torch.where((rows.labels != IGNORE).any(dim=1), _first_answer(rows.labels), rows.attention_mask.sum(dim=1))
    last_prompt = (at - 1)[:, None, None].expand(-1, 1, logits.shape[-1])
    return logits.gather(1, last_prompt)[:, 0].argmax(dim=-1)


def writes_answer(logits: Tensor, rows: QuestionRows) -> Tensor:
    """Return (R,) bool, whether greedy decoding writes the complete labelled answer of each row.

    That is so if each of its tokens is the most probable one after those before it, so no generation is needed. It is
    False for rows without labels.
    """
    labels = rows.labels[:, 1:]
    labelled = labels != IGNORE
    wrong = labelled & (logits[:, :-1].argmax(dim=-1) != labels)
    return labelled.any(dim=1) & ~wrong.any(dim=1)


def _first_answer(labels: Tensor) -> Tensor:
    """Return (R,) the column of the first labelled token, 0 where there is none."""
    return (labels != IGNORE).int().argmax(dim=1)
