"""Parts of messages: values on one line, limited in length, and the known names nearest to a misspelt one."""

from __future__ import annotations

import difflib
from typing import Any


def short(value: Any, limit: int = 80) -> str:
    """Return the ``repr`` of a value, truncated to ``limit`` characters; a downloaded file may contain anything."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def nearest(word: str, known: Any) -> str:
    """Return '; did you mean ...?' with the most similar known words, or the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word)[:200], known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {', '.join(known) or 'none'}"


def one_line(error: Exception) -> str:
    """Return the text of an error as one line of at most 500 characters."""
    return " ".join(str(error).split())[:500]
