"""Check a table of calls that must be refused, and report all that are not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


def wrongly_handled(error: type[Exception], cases: Mapping[str, tuple[Callable[[], Any], str]]) -> list[str]:
    """Return the cases that are accepted, raise another error, or have another message.

    Args:
        error: type of the error that every case must raise.
        cases: by name, a call and a regular expression of the message.
    """
    wrong = []
    for name, (call, message) in cases.items():
        try:
            call()
        except error as raised:
            if not re.search(message, str(raised)):
                wrong.append(f"{name}: {raised}")
        except Exception as raised:
            wrong.append(f"{name}: {type(raised).__name__}: {raised}")
        else:
            wrong.append(f"{name}: accepted")
    return wrong
