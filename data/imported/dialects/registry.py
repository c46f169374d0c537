"""The dialects that ``framefold shards import`` reads, in the order in which they are tried."""

from __future__ import annotations

from framefold.errors import DataError
from framefold.messages import nearest

from .activitynet import ActivityNet
from .dialect import Dialect, Row
from .flat import Flat
from .llava import Llava
from .messages import Messages
from .sharegpt import ShareGpt
from .sharegpt4video import ShareGpt4Video

DIALECTS: tuple[Dialect, ...] = (Messages(), Llava(), ShareGpt(), ShareGpt4Video(), ActivityNet(), Flat())

AUTO = "auto"


def find_dialect(name: str) -> Dialect | None:
    """Return a dialect by its name, or None for "auto".

    Raises:
        DataError: there is none of that name.
    """
    known = {dialect.name: dialect for dialect in DIALECTS}
    if name != AUTO and name not in known:
        raise DataError(f"there is no format {name!r}{nearest(name, [AUTO, *known])}")
    return known.get(name)


def detect_dialect(row: Row, where: str) -> Dialect:
    """Return the dialect of a file, given its first row.

    Raises:
        DataError: it looks like none of them.
    """
    for dialect in DIALECTS:
        if dialect.matches(row):
            return dialect
    known = "; ".join(f"{dialect.name}: {dialect.summary}" for dialect in DIALECTS)
    raise DataError(
        f"{where} has the fields {', '.join(map(str, row))[:200] or 'none'}, which fit no known format: name one with "
        f"--format, or map its fields with --columns. {known}"
    )
