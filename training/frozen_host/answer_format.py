"""How a host writes an answer behind a prompt: what comes before it, and which token ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ANSWER = "framefoldanswer"

QUESTION = [{"type": "video"}, {"type": "text", "text": "framefoldquestion"}]


@dataclass(frozen=True)
class ReplyStyle:
    """What belongs to an answer.

    Attributes:
        lead: white space between prompt and answer. end: ids of the token that ends the answer, or none.
    """

    lead: str
    end: tuple[int, ...]


def reply_style(processor: Any, model: Any) -> ReplyStyle:
    """Learn it from the chat template, by a conversation with an answer that is known.

    A template that does not repeat its prompt in such a conversation tells no white space: then it is a space, unless
    the prompt ends with white space or a special token. The end is what the template writes behind an answer, if the
    host stops there, and else the tokenizer's end of text.
    """
    tokenizer = processor.tokenizer
    asked = {"role": "user", "content": QUESTION}
    prompt = processor.apply_chat_template([asked], add_generation_prompt=True)
    whole = _conversation(processor, asked)
    before, _, behind = whole.rpartition(ANSWER)
    lead = before.removeprefix(prompt) if before.startswith(prompt) else None
    if lead is None or lead.strip():
        closed = prompt[-1:].isspace() or prompt.endswith(tuple(tokenizer.all_special_tokens))
        lead = "" if closed else " "
    ends = _stops(model, tokenizer)
    first = tokenizer(behind.lstrip(), add_special_tokens=False)["input_ids"][:1] if behind.strip() else []
    if first and first[0] in ends:
        return ReplyStyle(lead, (first[0],))
    return ReplyStyle(lead, () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))


def _conversation(processor: Any, asked: dict[str, Any]) -> str:
    """With an answer; "" where the template refuses answers."""
    for content in ([{"type": "text", "text": ANSWER}], ANSWER):  # templates take a list of parts, a text, or both
        try:
            text = processor.apply_chat_template([asked, {"role": "assistant", "content": content}])
        except Exception:  # a template is a program: it refuses with an error of its own, or just fails
            continue
        if text.count(ANSWER) == 1:
            return text
    return ""


def _stops(model: Any, tokenizer: Any) -> set[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    return {*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id} - {None}
