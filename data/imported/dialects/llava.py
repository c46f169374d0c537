"""LLaVA: ``conversations`` of ``from`` and ``value`` about the ``video`` of a row, as in LLaVA-Video-178K."""

from __future__ import annotations

from .dialect import Dialect, ImportedRow, Row
from .turns import one_video, read_turns


class Llava(Dialect):
    """Rows with ``video`` and ``conversations``."""

    name = "llava"
    summary = "LLaVA-Video-178K and other JSON of LLaVA: conversations with from and value, and video"

    def matches(self, row: Row) -> bool:
        return "conversations" in row and "videos" not in row

    def convert(self, row: Row) -> ImportedRow:
        return ImportedRow(one_video(row), (read_turns(row.get("conversations"), "from", "value"),))
