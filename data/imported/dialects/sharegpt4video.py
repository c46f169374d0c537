"""ShareGPT4Video: ``captions`` of key frames, with the ``timestamp`` of each, and one of the complete video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .captions import caption_row
from .damage import RefusedRow
from .dialect import Dialect, ImportedRow, Row
from .turns import one_video

COMPLETE = -1  # idx of the caption of the complete video


class ShareGpt4Video(Dialect):
    """Rows with ``video_path`` or ``video_id``, and ``captions`` of ``idx`` and ``content``.

    The caption of a key frame is about the video from its time stamp to the next one. That of the last key frame, whose
    end is not known, and captions without a time stamp are left out unless they are of the complete video.
    """

    name = "sharegpt4video"
    summary = "ShareGPT4Video: captions with idx and content, and the timestamp of each key frame"

    def matches(self, row: Row) -> bool:
        captions = row.get("captions")
        first = captions[0] if isinstance(captions, list) and captions else None
        return isinstance(first, dict) and "content" in first

    def convert(self, row: Row) -> ImportedRow:
        captions = row.get("captions")
        if not isinstance(captions, list) or not all(isinstance(caption, dict) for caption in captions):
            raise RefusedRow("no_turns", f"the captions are {captions!r:.60}")
        times = row.get("timestamp") or row.get("timestamps")
        return caption_row(one_video(row, ("video_path", "video", "video_id")), _timed(captions, times))


def _timed(captions: list[dict[str, Any]], times: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yield text, start and end of the captions of the complete video and of parts whose ends are known."""
    stamps = times if isinstance(times, list) else []
    for caption in captions:
        try:
            number = int(caption.get("idx", COMPLETE))
        except (TypeError, ValueError):
            number = len(stamps)  # of several key frames, such as "1-2"
        if number == COMPLETE:
            yield caption.get("content"), None, None
        elif 0 <= number < len(stamps) - 1:
            yield caption.get("content"), stamps[number], stamps[number + 1]
