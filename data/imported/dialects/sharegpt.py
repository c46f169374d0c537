"""ShareGPT: ``conversations`` of ``from`` and ``value`` with a list of ``videos``, as LLaMA-Factory reads them."""

from __future__ import annotations

from .dialect import Dialect, ImportedRow, Row
from .turns import one_video, read_turns


class ShareGpt(Dialect):
    """Rows with ``videos`` and ``conversations``, and perhaps a ``system`` prompt."""

    name = "sharegpt"
    summary = "ShareGPT-style conversations with from and value, and a list of videos (LLaMA-Factory)"

    def matches(self, row: Row) -> bool:
        return "conversations" in row and "videos" in row

    def convert(self, row: Row) -> ImportedRow:
        turns, system = row.get("conversations"), row.get("system")
        if system and isinstance(turns, list):
            turns = [{"from": "system", "value": system}, *turns]
        return ImportedRow(one_video(row), (read_turns(turns, "from", "value"),))
