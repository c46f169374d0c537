"""How the chat template of a host writes conversations: turns before a question, and what surrounds an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from framefold.errors import HostError, PromptError

ANSWER = "framefoldanswer"

QUESTION = [{"type": "video"}, {"type": "text", "text": "framefoldquestion"}]

History = Sequence[tuple[str, str]]  # questions and answers


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


def write_conversation(template: Callable[[list[dict[str, Any]]], str], question: str, history: History = ()) -> str:
    """Write a question with a chat template; the video comes first, and the turns that precede the question next.

    Args:
        template: writes messages as text, up to the start of the next answer.
        question: about the video.
        history: questions and answers that precede it.

    Raises:
        HostError: The template does not write earlier answers.
    """
    if not history:
        return template([_user(question, True)])
    for as_parts in (True, False):  # templates take a list of parts, a text, or both
        messages = [_user(history[0][0], True)]
        for place, (_, answer) in enumerate(history):
            following = [asked for asked, _ in history[place + 1 : place + 2]] or [question]
            messages += [_assistant(answer, as_parts), _user(following[0], False)]
        try:
            text = template(messages)
        except Exception:  # a template is a program: it may raise errors of its own
            continue
        if all(words.strip() in text for turn in history for words in turn):
            return text
    raise HostError("the chat template of this host does not write the earlier turns of a conversation")


def _user(text: str, with_video: bool) -> dict[str, Any]:
    parts = [{"type": "text", "text": text}]
    return {"role": "user", "content": [{"type": "video"}, *parts] if with_video else parts}


def _assistant(text: str, as_parts: bool) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}] if as_parts else text}


def split_prompts(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    n_placeholders: int,
    video_token_id: int,
    histories: Sequence[History] | None = None,
) -> tuple[list[int], list[list[int]]]:
    """Return the ids up to the last placeholder, which all questions share, and the ids after it for each question.

    Args:
        tokenizer: with a chat template.
        questions: about the video.
        n_placeholders: number of visual tokens of the video.
        video_token_id: id of the placeholder.
        histories: turns that precede each question; by default none.

    Raises:
        PromptError: A prompt does not have exactly one video, or text that differs between questions precedes it.
    """
    prompts = [
        _prompt_ids(tokenizer, question, n_placeholders, video_token_id, history)
        for question, history in zip(questions, histories or [()] * len(questions), strict=True)
    ]
    return split_shared(prompts, len(prompts[0]) - prompts[0][::-1].index(video_token_id))


def split_shared(prompts: Sequence[list[int]], shared: int) -> tuple[list[int], list[list[int]]]:
    """Split prompts after their shared first columns.

    Raises:
        PromptError: The first columns differ, or a prompt has no further columns.
    """
    if any(prompt[:shared] != prompts[0][:shared] or len(prompt) == shared for prompt in prompts):
        raise PromptError("the chat template must put the video before all text that differs between questions")
    return prompts[0][:shared], [prompt[shared:] for prompt in prompts]


def _prompt_ids(
    tokenizer: PreTrainedTokenizerBase, question: str, n_placeholders: int, video_token_id: int, history: History
) -> list[int]:
    template: Any = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    text = write_conversation(template, question, history)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if ids.count(video_token_id) != 1:
        raise PromptError(
            f"the chat template wrote {ids.count(video_token_id)} video tokens (id {video_token_id}), not 1"
        )
    at = ids.index(video_token_id)
    return ids[:at] + [video_token_id] * n_placeholders + ids[at + 1 :]
