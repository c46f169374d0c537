"""Words that the closed vocabulary of a tinyhost lacks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import Any

from framefold.messages import short
from framefold.warning_types import UnknownWordsWarning

from .locate import EMBEDDED

MOST_WORDS = 8  # words that a warning lists


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """Return the different words and signs of a text that a tokenizer maps to its unknown token."""
    words = dict.fromkeys(re.findall(r"\w+|[^\w\s]+", text))
    return [one for one in words if tokenizer.unk_token_id in tokenizer(one, add_special_tokens=False)["input_ids"]]


def warn_unknown_words(name: str, tokenizer: Any, texts: Iterable[str], asked: str, stacklevel: int = 2) -> bool:
    """Warn if a tinyhost is asked about words that it does not know.

    Args:
        name: the host, as the user gave it.
        tokenizer: of the host.
        texts: questions and answers.
        asked: who asks, such as "the question", for the message.
        stacklevel: see ``warnings.warn``.

    Returns:
        Whether there were such words.
    """
    words = list(dict.fromkeys(word for text in texts for word in unknown_words(tokenizer, text)))
    if not words:
        return False
    known = len(tokenizer) - len(tokenizer.all_special_ids)
    listed = ", ".join(map(short, words[:MOST_WORDS])) + (" ..." if len(words) > MOST_WORDS else "")
    warnings.warn(
        f"{name} knows only framefold's synthetic videos of flashing shapes and {known} words, as in 'which shape"
        f" flashed first ?'; {asked} has others ({listed}), so its answer means nothing: {EMBEDDED}/README.md lists"
        " what it can be asked",
        UnknownWordsWarning,
        stacklevel + 1,
    )
    return True


def special_tokens(tokenizer: Any, config: Any) -> tuple[str, ...]:
    """Return the texts that a tokenizer turns into a placeholder of pictures, or into a mark of the conversation.

    Args:
        tokenizer: of a host.
        config: of the host, which names the ids of its placeholders.
    """
    placeholders = [value for name, value in vars(config).items() if name.endswith(("_token_id", "_index"))]
    added = tokenizer.added_tokens_decoder.items()
    found = (token.content for id_, token in added if token.special or id_ in placeholders)
    return tuple(token for token in found if len(token) > 2 and not token[0].isalnum() and not token[-1].isalnum())
