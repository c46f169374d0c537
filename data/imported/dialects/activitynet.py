"""ActivityNet Captions: an object by video, with ``timestamps`` and a sentence about each interval."""

from __future__ import annotations

from .captions import caption_row
from .damage import RefusedRow
from .dialect import Dialect, ImportedRow, Row
from .turns import video_name

SENTENCES = ("sentences", "captions")


class ActivityNet(Dialect):
    """Rows with ``timestamps`` and ``sentences``; the video is the key of the row, or a field ``video``."""

    name = "activitynet"
    summary = "ActivityNet Captions: by video, timestamps and sentences"

    def matches(self, row: Row) -> bool:
        return "timestamps" in row and any(name in row for name in SENTENCES)

    def convert(self, row: Row) -> ImportedRow:
        times = row.get("timestamps")
        sentences = next((row[name] for name in SENTENCES if name in row), None)
        if not isinstance(sentences, list):
            raise RefusedRow("no_turns", f"the sentences are {sentences!r:.60}")
        if not isinstance(times, list) or len(times) != len(sentences):
            found = len(times) if isinstance(times, list) else 0
            raise RefusedRow("uneven_lists", f"{found} timestamps for {len(sentences)} sentences")
        pairs = (time if isinstance(time, list) and len(time) == 2 else (time, time) for time in times)
        captions = ((text, start, end) for text, (start, end) in zip(sentences, pairs, strict=True))
        return caption_row(video_name(row.get("video") or row.get("key") or ""), captions)
