"""Messages of ``role`` and ``content``: OpenAI's, whose content may be parts, and LLaMA-Factory's with ``videos``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .damage import RefusedRow
from .dialect import Dialect, ImportedRow, Row
from .texts import text_of
from .turns import one_video, read_turns

VIDEO_PARTS = ("video", "video_url", "input_video")  # types of a part; its field has the same name

TEXT_PARTS = ("text", "input_text", "output_text")


class Messages(Dialect):
    """Rows with ``messages``; the video is a part of a message, or in ``videos``."""

    name = "messages"
    summary = "messages with role and content: OpenAI JSONL with video parts, LLaMA-Factory with videos"

    def matches(self, row: Row) -> bool:
        return "messages" in row

    def convert(self, row: Row) -> ImportedRow:
        found: list[Any] = []
        messages = row.get("messages")
        if isinstance(messages, list):
            messages = [_as_text(message, found) for message in messages]
        listed = row.get("videos") or row.get("video") or []
        videos = [*found, *(listed if isinstance(listed, list) else [listed])]
        return ImportedRow(
            one_video({**row, "videos": videos}, ("videos",)), (read_turns(messages, "role", "content"),)
        )


def _as_text(message: Any, videos: list[Any]) -> Any:
    """Return a message whose parts are one text, with a tag for each video; the videos are appended to the list."""
    if not isinstance(message, Mapping) or not isinstance(message.get("content"), list):
        return message
    return {**message, "content": "\n".join(_part(part, videos) for part in message["content"])}


def _part(part: Any, videos: list[Any]) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in TEXT_PARTS:
        return text_of(part.get("text"), "a part")
    if kind in VIDEO_PARTS:
        value = part.get(kind)
        videos.append(value.get("url") if isinstance(value, Mapping) else value)
        return "<video>"
    if kind in ("image", "image_url", "input_image"):
        raise RefusedRow("has_images", f"{part!r:.60}")
    raise RefusedRow("not_text", f"a part of a message is {part!r:.60}")
