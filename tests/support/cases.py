"""Naming the failing case of a test that loops over many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def case(*values: Any) -> Iterator[None]:
    """Add the values of a loop to the message of an error that its body raises."""
    try:
        yield
    except Exception as error:
        error.add_note(f"case: {', '.join(map(str, values))}")
        raise
