"""How a host writes an answer after a prompt: the white space before it, and the token that ends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ANSWER = "framefoldanswer"

QUESTION = [{"type": "video"}, {"type": "text", "text": "framefoldquestion"}]


@dataclass(frozen=True)
class AnswerFormat:
    """What surrounds the text of an answer.

    Attributes:
        lead: white space between prompt and answer.
        end: id of the token that ends the answer; empty if there is none.
    """

    lead: str
    end: tuple[int, ...]


def infer_answer_format(processor: Any, model: Any) -> AnswerFormat:
    """Infer the format from the chat template, with a conversation whose answer is known.

    The white space is what the template writes between prompt and answer. If the conversation does not begin with the
    prompt, it is one space, or none if the prompt ends with white space or a special token. The end is the token that
    the template writes after the answer, if the host stops at it, and otherwise the tokenizer's end-of-text token.
    """
    tokenizer = processor.tokenizer
    question = {"role": "user", "content": QUESTION}
    prompt = processor.apply_chat_template([question], add_generation_prompt=True)
    before, _, after = _conversation(processor, question).rpartition(ANSWER)
    lead = before.removeprefix(prompt) if before.startswith(prompt) else None
    if lead is None or lead.strip():
        closed = prompt[-1:].isspace() or prompt.endswith(tuple(tokenizer.all_special_tokens))
        lead = "" if closed else " "
    ends = _stop_tokens(model, tokenizer)
    first = tokenizer(after.lstrip(), add_special_tokens=False)["input_ids"][:1] if after.strip() else []
    if first and first[0] in ends:
        return AnswerFormat(lead, (first[0],))
    return AnswerFormat(lead, () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,))


def _conversation(processor: Any, question: dict[str, Any]) -> str:
    """Return the text of a question with its answer, or "" if the template refuses answers."""
    for content in ([{"type": "text", "text": ANSWER}], ANSWER):  # templates take a list of parts, a text, or both
        try:
            text = processor.apply_chat_template([question, {"role": "assistant", "content": content}])
        except Exception:  # a template is a program: it may raise errors of its own
            continue
        if text.count(ANSWER) == 1:
            return text
    return ""


def _stop_tokens(model: Any, tokenizer: Any) -> set[int]:
    given = getattr(model.generation_config, "eos_token_id", None)
    return {*(given if isinstance(given, list) else [given]), tokenizer.eos_token_id} - {None}
