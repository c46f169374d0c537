"""What a chat template puts around a user's message, learned by rendering it around messages whose words are known.

A rendering is text, cut into units: special tokens, words and signs. Whitespace is no unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Any, NamedTuple

ROLES = {"S": "system", "A": "user", "B": "assistant", "C": "user"}


class Opener(NamedTuple):
    """What stands before a user's message.

    Attributes:
        text: without whitespace.
        after_special: whether it stands only after a special token, or first of all; so ``User:`` inside a question
            is none.
    """

    text: str
    after_special: bool


class ChatTemplate:
    """A chat template of a tokenizer, as text in units.

    Args:
        tokenizer: renders it.
        source: the template itself, in Jinja; transformers runs it in a sandbox.
        specials: the special tokens as they are written.
    """

    def __init__(self, tokenizer: Any, source: str, specials: Iterable[str]) -> None:
        self.tokenizer, self.source, self.specials = tokenizer, source, set(specials)
        marks = sorted(map(re.escape, self.specials), key=len, reverse=True)
        self.unit = re.compile("|".join([*marks, r"\w+|\S"]))

    def render(self, letters: str, prompt: bool = False) -> list[list[str]]:
        """What is written before, between and after messages.

        Args:
            letters: the messages, by the letters of ROLES.
            prompt: whether to ask for the start of an answer.

        Returns:
            One list of units more than there are messages; no list if the template refuses these messages.
        """
        words = [f"framefold{letter}message" for letter in letters]
        for parts in (False, True):  # templates take a text, a list of parts, or both
            messages = [
                {"role": ROLES[letter], "content": [{"type": "text", "text": word}] if parts else word}
                for letter, word in zip(letters, words, strict=True)
            ]
            try:
                text = self.tokenizer.apply_chat_template(
                    messages, chat_template=self.source, tokenize=False, add_generation_prompt=prompt
                )
            except Exception:  # a template is a program: it refuses with an error of its own, or just fails
                continue
            around = re.split("|".join(words), text) if words else []
            if len(around) == len(words) + 1:
                return [self.unit.findall(piece) for piece in around]
        return []

    def openers(self) -> tuple[Opener, ...]:
        """What is before every user's message, and what only some have there, such as the end of a system prompt."""
        first = self.render("A")[0]
        letters = next((some for some in ("ABC", "AC", "SA") if self.render(some)), "A")  # some refuse answers
        context = self.render(letters)[-2]
        closing = (self.render(letters[:-1]) or [[]])[-1]  # of the message before, which a first turn does not have
        later = context[len(closing) :] if context[: len(closing)] == closing else context
        system = (self.render("SA") or [[], []])[1]
        shared = _common(first[::-1], later[::-1])[::-1]
        if not any(unit in self.specials or unit.isalnum() for unit in shared):
            shared = []  # signs alone, such as the colon of "Q1:" and "Q2:", are in questions too
        own = [units for units in (first, later, system) if units and not _ends(units, shared)]
        fronts = [["", *first], ["message", *context], ["message", *system]]  # with what is before them
        fronts = [front[: -len(shared)] for front in fronts if _ends(front, shared)]
        words = bool(shared) and shared[0] not in self.specials
        after_special = words and all(front[-1] in {"", *self.specials} for front in fronts)
        always = [Opener("".join(shared), after_special)] if shared else []
        return (*always, *(Opener("".join(units), False) for units in own))

    def closers(self) -> tuple[str, ...]:
        """What follows a user's message, without whitespace: at the end of a conversation, and before an answer."""
        end = self.render("A")[1]
        prompted = (self.render("A", prompt=True) or [[], []])[1]
        answered = (self.render("AB") or [[], []])[1]
        cue = _common(prompted, answered) or prompted or answered
        return tuple("".join(units) for units in (end, cue) if units)


def _ends(units: list[str], end: list[str]) -> bool:
    return bool(end) and units[-len(end) :] == end


def _common(one: list[str], other: list[str]) -> list[str]:
    """The longest common beginning."""
    return [unit for unit, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
