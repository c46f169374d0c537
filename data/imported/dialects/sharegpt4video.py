"""ShareGPT4Video: ``captions`` of key frames, with the ``timestamp`` of each, and one of the complete video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .captions import caption_row
from .damage import RefusedRow
from .dialect import Dialect, ImportedRow, Row
from .turns import one_video

COMPLETE = "-1"  # idx of the caption of the complete video


class ShareGpt4Video(Dialect):
    """Rows with ``video_path`` or ``video_id``, and ``captions`` of ``idx`` and ``content``.

    The caption of a key frame is about the video from its time stamp to the next one, or to the end. One without a time
    stamp is refused unless it is of the complete video.
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
    """Yield text, start and end of the captions; both times are None for the complete video."""
    stamps = times if isinstance(times, list) else []
    for caption in captions:
        frame = str(caption.get("idx", COMPLETE))
        if frame == COMPLETE:
            yield caption.get("content"), None, None
        elif frame.isdecimal() and int(frame) < len(stamps):
            yield caption.get("content"), stamps[int(frame)], next(iter(stamps[int(frame) + 1 :]), None)
        else:
            yield caption.get("content"), f"key frame {frame}", None  # which is no time
