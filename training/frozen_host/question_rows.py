"""One prefill of a video, many questions.

The prefix (text before the video, and its visual tokens) runs once; its cache is repeated for the questions, and
the question rows run on top of it. It equals a full prompt per question, costs one prefill, needs no 4-D mask, and
stays differentiable, so it trains compressors and hosts alike. Positions are preserved: questions go on from the length
that the video had before anything was taken out of it.

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

from framefold.errors import PromptError

IGNORE = -100


@dataclass(frozen=True)
class QARows:
    """Question rows over shared prefixes; all on the device of the model.

    input_ids, attention_mask, labels: (R, L) right-padded, labels IGNORE except at the answer's tokens.
    video: (R,) batch element whose prefix the row continues. start: (R,) position of the row's first token.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    video: Tensor
    start: Tensor

    def to(self, device: torch.device | str) -> QARows:
        """The same rows on another device."""
        return QARows(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))

    def answers(self) -> Tensor:
        """(R,) first answer token of each row; IGNORE where a row has none."""
        at = _first_answer(self.labels)
        found = self.labels.gather(1, at[:, None])[:, 0]
        return found

    @staticmethod
    def concat(parts: Sequence[QARows]) -> QARows:
        """Rows of several batch elements, one part each, as one: part i continues prefix i."""
        width = max(part.input_ids.shape[1] for part in parts)

        def join(name: str, fill: int) -> Tensor:
            return torch.cat([F.pad(t, (0, width - t.shape[1]), value=fill) for t in (getattr(p, name) for p in parts)])

        video = torch.cat([torch.full_like(part.video, i) for i, part in enumerate(parts)])
        start = torch.cat([part.start for part in parts])
        return QARows(join("input_ids", 0), join("attention_mask", 0), join("labels", IGNORE), video, start)


def build_prompt(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    answers: Sequence[str] | None,
    n_placeholders: int,
    video_token_id: int,
    *,
    end: bool = False,
) -> tuple[Tensor, QARows]:
    """Prefix ids (Lp,) and the rows of one video's questions, through the tokenizer's chat template.

    The prefix ends with the last of the video's n_placeholders, so prefixes of equally long videos are equal and stack
    into a batch. Rows start at position Lp, whatever becomes of the placeholders.
    answers: None to ask without labels. end: label the end-of-text token as well (trains a host that stops).
    Raises PromptError if there is no question, if a prompt has no or more than one video, or if text that differs comes
    before the video.
    """
    if not questions or (answers is not None and len(answers) != len(questions)):
        raise PromptError(f"{len(questions)} questions and {'no' if answers is None else len(answers)} answers")
    prefix, tails = split_prompts(tokenizer, questions, n_placeholders, video_token_id)
    replies = [answer_ids(tokenizer, answer, end) for answer in answers] if answers is not None else [[]] * len(tails)
    return torch.tensor(prefix), write_rows(tails, replies, len(prefix))


def split_prompts(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], n_placeholders: int, video_token_id: int
) -> tuple[list[int], list[list[int]]]:
    """The ids up to the last placeholder, which all questions share, and what follows for each of them.

    Raises:
        PromptError: as :func:`build_prompt`.
    """
    prompts = [_prompt_ids(tokenizer, question, n_placeholders, video_token_id) for question in questions]
    return split_shared(prompts, len(prompts[0]) - prompts[0][::-1].index(video_token_id))


def split_shared(prompts: Sequence[list[int]], shared: int) -> tuple[list[int], list[list[int]]]:
    """The first columns of prompts, which must be the same in all of them, and what follows in each.

    Raises:
        PromptError: they differ, or nothing follows.
    """
    if any(prompt[:shared] != prompts[0][:shared] or len(prompt) == shared for prompt in prompts):
        raise PromptError("the chat template must put the video before all text that differs between questions")
    return prompts[0][:shared], [prompt[shared:] for prompt in prompts]


def write_rows(tails: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], start: int) -> QARows:
    """The rows of one video's questions.

    Args:
        tails: for each question the ids between prefix and answer. replies: the ids to label; may be empty.
        start: position of the column behind the prefix.
    """
    width = max(len(tail) + len(reply) for tail, reply in zip(tails, replies, strict=True))
    ids, mask, labels = (torch.full((len(tails), width), fill) for fill in (0, 0, IGNORE))
    for row, (tail, reply) in enumerate(zip(tails, replies, strict=True)):
        n, m = len(tail), len(tail) + len(reply)
        ids[row, :m] = torch.tensor([*tail, *reply])
        mask[row, :m] = 1
        labels[row, n:m] = torch.tensor(reply, dtype=torch.long)
    video = torch.zeros(len(tails), dtype=torch.long)
    return QARows(ids, mask, labels, video, video + start)


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, question: str, n_placeholders: int, video_token_id: int
) -> list[int]:
    content: Any = [{"type": "video"}, {"type": "text", "text": question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids.count(video_token_id) != 1:
        raise PromptError(
            f"the chat template wrote {ids.count(video_token_id)} video tokens (id {video_token_id}), not 1"
        )
    at = ids.index(video_token_id)
    return ids[:at] + [video_token_id] * n_placeholders + ids[at + 1 :]


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: str, end: bool = False) -> list[int]:
    """Ids of an answer; end: with the end-of-text token."""
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return ids + [tokenizer.eos_token_id] if end else ids


def answer_logits(model: PreTrainedModel, prefix: dict[str, Any], rows: QARows) -> Tensor:
    """Logits (R, L, V) at the rows' tokens after one prefill of their videos.

    prefix: keyword arguments of the host's forward for B prefixes (input_ids or inputs_embeds, features, and always an
    attention_mask (B, Lp); position_ids if anything was taken out). Without a mask, transformers reads gaps in the
    positions as borders of packed sequences and separates the tokens, so a missing one is an error here.
    """
    return model(**prefill(model, prefix, rows)).logits


def prefill(model: PreTrainedModel, prefix: dict[str, Any], rows: QARows) -> dict[str, Any]:
    """Run the prefixes; returns the keyword arguments with which the model reads the question rows behind them.

    Raises:
        PromptError: the prefix has no attention_mask.
    """
    if prefix.get("attention_mask") is None:
        raise PromptError("the prefix needs an attention_mask, all ones if nothing is padded")
    filled = model(**prefix, use_cache=True, logits_to_keep=1)
    cache = filled.past_key_values
    cache.batch_select_indices(rows.video)
    steps = torch.arange(rows.input_ids.shape[1], device=rows.start.device)
    positions = rows.start[:, None] + steps
    columns = prefix.get("position_ids")
    if columns is not None and columns.ndim == 3:  # M-RoPE: text has the same position on every axis
        positions = positions.expand(columns.shape[0], -1, -1)
    mask = torch.cat([prefix["attention_mask"][rows.video], rows.attention_mask], dim=1)
    return {
        "input_ids": rows.input_ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
        "use_cache": True,
    }


def packed_logits(model: PreTrainedModel, prefix: dict[str, Any], rows: QARows) -> Tensor:
    """As answer_logits, with the rows of a video packed behind one copy of its cache; sdpa and eager attention only.

    Nothing is repeated, which saves a third of a training step of 12 questions on 1024 tokens. Every video needs
    equally many rows, those of a video next to each other. Raises PromptError otherwise.
    """
    seen = prefix.get("attention_mask")
    if seen is None:
        raise PromptError("the prefix needs an attention_mask, all ones if nothing is padded")
    videos, each, length = len(seen), len(rows.video) // len(seen), rows.input_ids.shape[1]
    if not torch.equal(rows.video.cpu(), torch.arange(videos).repeat_interleave(each)):
        raise PromptError("packing needs equally many question rows for every video, in the videos' order")
    cache = model(**prefix, use_cache=True, logits_to_keep=1).past_key_values
    steps = torch.arange(length, device=rows.start.device)
    own = rows.attention_mask.bool()[:, None, :] & (steps[:, None] >= steps)  # (R, L, L) causal inside a row
    blocks = own.new_zeros(videos, each, length, each, length)
    row = torch.arange(each, device=own.device)
    blocks[:, row, :, row] = own.view(videos, each, length, length).movedim(1, 0)
    prefix_seen = seen.bool()[:, None, :].expand(-1, each * length, -1)
    mask = torch.cat([prefix_seen, blocks.flatten(3).flatten(1, 2)], dim=-1)[:, None]
    if model.config.get_text_config()._attn_implementation == "eager":  # which adds masks and knows no booleans
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
    positions = (rows.start[:, None] + steps).view(videos, -1)
    columns = prefix.get("position_ids")
    if columns is not None and columns.ndim == 3:  # M-RoPE: text has the same position on every axis
        positions = positions.expand(columns.shape[0], -1, -1)
    asked = model(
        input_ids=rows.input_ids.view(videos, -1),
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    return asked.logits.reshape(len(rows.video), length, -1)


def answer_loss(logits: Tensor, rows: QARows) -> Tensor:
    """Mean cross-entropy (nats) of the labelled tokens, each predicted from the token before it; scalar."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), rows.labels[:, 1:].flatten(), ignore_index=IGNORE)


def answer_places(rows: QARows) -> Tensor:
    """(R, L) bool, the places whose logits predict an answer token; the question's last where a row has no answer."""
    places = F.pad(rows.labels[:, 1:] != IGNORE, (0, 1), value=False)
    last = F.one_hot(rows.attention_mask.sum(dim=1) - 1, places.shape[1]).bool()
    return torch.where(places.any(dim=1, keepdim=True), places, last)


def predict(logits: Tensor, rows: QARows) -> Tensor:
    """Greedy first answer token of each row, (R,); where a row has no label, the token after its last."""
    at = torch.where((rows.labels != IGNORE).any(dim=1), _first_answer(rows.labels), rows.attention_mask.sum(dim=1))
    last_prompt = (at - 1)[:, None, None].expand(-1, 1, logits.shape[-1])
    return logits.gather(1, last_prompt)[:, 0].argmax(dim=-1)


def _first_answer(labels: Tensor) -> Tensor:
    """(R,) column of the first labelled token, 0 where there is none."""
    return (labels != IGNORE).int().argmax(dim=1)
