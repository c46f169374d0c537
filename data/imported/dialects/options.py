"""Options of multiple-choice questions, found in the text or given as a list, and the answers that they permit."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from .damage import RefusedRow

LETTERS = string.ascii_uppercase

LINE = re.compile(r"[ \t]*(?:\(([A-Z])\)|([A-Z])[.):])[ \t]*(\S.*?)[ \t]*")  # "A. a dog", "(A) a dog", "A) a dog"

INLINE = re.compile(r"\(([A-Z])\)\s*([^()\n]*[^()\s])")  # "(A) a dog (B) a cat"

LETTER = re.compile(r"(\(?)([A-Z])([.):]{0,2})(?:(\s+)(.+))?", re.DOTALL)  # of an answer, perhaps with the text


def find_options(text: str) -> tuple[str, ...]:
    """Return the options in a question, one for each letter from A on; empty if there are fewer than two."""
    lines = [LINE.fullmatch(line) for line in text.split("\n")]
    listed = [(match[1] or match[2], match[3]) for match in lines if match]
    for found in (listed, [(match[1], match[2]) for match in INLINE.finditer(text)]):
        options = _consecutive(found)
        if len(options) > 1:
            return options
    return ()


def answer_choices(answer: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return all answers that are written like this one, for questions with options.

    The answer may be a letter (``B``, ``(B)``, ``B.``), a letter with its option, or the option alone. Any other answer
    is free text, for which there are no choices.

    Raises:
        RefusedRow: the answer is the letter of no option, or two options are equal.
    """
    if not options:
        return ()
    plain = [_plain(option) for option in options]
    if _plain(answer) in plain:
        return _distinct(_with_answer(options, plain.index(_plain(answer)), answer))
    match = LETTER.fullmatch(answer)
    if match is None:
        return ()
    before, letter, after, gap, text = match.groups()
    number = LETTERS.index(letter)
    if number >= len(options):
        if text is None:
            raise RefusedRow("wrong_answer", f"the answer {answer!r:.40} is none of {len(options)} options")
        return ()
    if text is None:
        return tuple(f"{before}{letter}{after}" for letter in LETTERS[: len(options)])
    if _plain(text) != plain[number]:
        return ()
    written = [f"{before}{letter}{after}{gap}{option}" for letter, option in zip(LETTERS, options, strict=False)]
    return _distinct(_with_answer(written, number, answer))


def letter_options(question: str, options: Sequence[str], answer: str) -> tuple[str, str]:
    """Return a question with its options under letters, and the letter of its answer.

    Args:
        question: without options.
        options: texts, perhaps with letters already.
        answer: a letter, the text of an option, or the number of an option, counted from 0.

    Raises:
        RefusedRow: options are too few, too many or equal, or the answer is none of them.
    """
    listed = [_without_letter(option, number) for number, option in enumerate(options)]
    if not 2 <= len(listed) <= len(LETTERS) or not all(listed):
        raise RefusedRow("wrong_options", f"{len(listed)} options of {question!r:.60}")
    _distinct(tuple(_plain(option) for option in listed))
    numbers = [number for number, option in enumerate(listed) if _plain(option) == _plain(answer)]
    match = LETTER.fullmatch(answer.strip())
    if not numbers and match and (match[5] is None or _plain(match[5]) in map(_plain, listed)):
        numbers = [LETTERS.index(match[2])]
    elif not numbers and answer.strip().isdecimal():
        numbers = [int(answer)]
    if not numbers or numbers[0] >= len(listed):
        raise RefusedRow("wrong_answer", f"the answer {answer!r:.40} is none of {len(listed)} options")
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, listed, strict=False)]
    return "\n".join([question.strip(), *lines]), LETTERS[numbers[0]]


def _consecutive(found: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return the texts of the first run of letters A, B, C and so on."""
    options: list[str] = []
    for letter, text in found:
        if letter == LETTERS[len(options)]:
            options.append(text)
        elif options:
            break
        if len(options) == len(LETTERS):
            break
    return tuple(options)


def _without_letter(option: str, number: int) -> str:
    match = LINE.fullmatch(option.strip())
    return match[3] if match and number < len(LETTERS) and (match[1] or match[2]) == LETTERS[number] else option.strip()


def _with_answer(choices: Sequence[str], number: int, answer: str) -> tuple[str, ...]:
    return (*choices[:number], answer, *choices[number + 1 :])


def _distinct(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(choices)) < len(choices):
        raise RefusedRow("wrong_options", f"two options are equal: {', '.join(choices)!r:.80}")
    return choices


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
