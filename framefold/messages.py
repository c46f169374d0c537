"""Text for messages: one line, limited in length, with the nearest known names."""

from __future__ import annotations

import difflib
from typing import Any


def short(value: Any, limit: int = 80) -> str:
    """``repr`` cut to a length that still makes one line of a message, whatever a downloaded file holds."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def nearest(word: str, known: Any) -> str:
    """'; did you mean ...?' with the nearest known words, or the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word)[:200], known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {', '.join(known) or 'none'}"


def one_line(error: Exception) -> str:
    """Text of an error as one line that is not too long."""
    return " ".join(str(error).split())[:500]
