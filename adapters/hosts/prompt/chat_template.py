"""Find out what a chat template writes around a user's message, by rendering it with known messages.

A rendering is text split into units: special tokens, words and punctuation marks. Whitespace is not a unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NamedTuple

ROLES = {"S": "system", "A": "user", "B": "assistant", "C": "user"}


class Opener(NamedTuple):
    """Text that a chat template writes before a user's message.

    Attributes:
        text: the text, without whitespace.
        after_special: whether it occurs only after a special token or at the very start, so that ``User:`` inside a
            question does not count.
    """

    text: str
    after_special: bool


class ChatTemplate:
    """A chat template of a tokenizer, rendered as units.

    Args:
        tokenizer: tokenizer that renders the template.
        source: the Jinja source of the template; transformers runs it in a sandbox.
        specials: the special tokens as written.
    """

    def __init__(self, tokenizer: Any, source: str, specials: Iterable[str]) -> None:
        self.tokenizer, self.source, self.specials = tokenizer, source, set(specials)
        marks = sorted(map(re.escape, self.specials), key=len, reverse=True)
        self.unit = re.compile("|".join([*marks, r"\w+|\S"]))

    def render(self, letters: str, prompt: bool = False) -> list[list[str]]:
        """Return what the template writes before, between and after messages.

        Args:
            letters: the messages, as letters of ROLES.
            prompt: whether to add the start of an answer.

        Returns:
            One more list of units than there are messages; an empty list if the template refuses these messages.
        """
        words = [f"framefold{letter}message" for letter in letters]
        for parts in (False, True):  # templates accept text, a list of parts, or both
            messages = [
                {"role": ROLES[letter], "content": [{"type": "text", "text": word}] if parts else word}
                for letter, word in zip(letters, words, strict=True)
            ]
            try:
                text = self.tokenizer.apply_chat_template(
                    messages, chat_template=self.source, tokenize=False, add_generation_prompt=prompt
                )
            except Exception:  # templates are programs that may raise any error
                continue
            around = re.split("|".join(words), text) if words else []
            if len(around) == len(words) + 1:
                return [self.unit.findall(piece) for piece in around]
        return []

    def openers(self) -> tuple[Opener, ...]:
        """Return what precedes every user message, and what precedes some, such as the end of a system prompt."""
        first = self.render("A")[0]
        letters = next(
            (some for some in ("ABC", "AC", "SA") if self.render(some)), "A"
        )  # some templates refuse answers
        context = self.render(letters)[-2]
        closing = (self.render(letters[:-1]) or [[]])[-1]  # end of the previous message, which a first turn lacks
        later = context[len(closing) :] if context[: len(closing)] == closing else context
        system = (self.render("SA") or [[], []])[1]
        shared = _common(first[::-1], later[::-1])[::-1]
        if not any(unit in self.specials or unit.isalnum() for unit in shared):
            shared = []  # punctuation alone, such as the colon of "Q1:" and "Q2:", occurs in questions too
        others = [units for units in (first, later, system) if units and not _ends(units, shared)]
        prefixes = [["", *first], ["message", *context], ["message", *system]]
        prefixes = [prefix[: -len(shared)] for prefix in prefixes if _ends(prefix, shared)]
        starts_with_word = bool(shared) and shared[0] not in self.specials
        after_special = starts_with_word and all(prefix[-1] in {"", *self.specials} for prefix in prefixes)
        common = [Opener("".join(shared), after_special)] if shared else []
        return (*common, *(Opener("".join(units), False) for units in others))

    def closers(self) -> tuple[str, ...]:
        """Return what follows a user message at the end of a conversation and before an answer, without whitespace."""
        end = self.render("A")[1]
        prompted = (self.render("A", prompt=True) or [[], []])[1]
        answered = (self.render("AB") or [[], []])[1]
        answer_start = _common(prompted, answered) or prompted or answered
        return tuple("".join(units) for units in (end, answer_start) if units)


def _ends(units: list[str], end: list[str]) -> bool:
    return bool(end) and units[-len(end) :] == end


def _common(one: list[str], other: list[str]) -> list[str]:
    """Return the longest common prefix."""
    return [unit for unit, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
