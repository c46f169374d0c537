"""Turns of a conversation between a user and an assistant, with tags in the place of the video."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .damage import RefusedRow
from .dialect import Conversation, Row
from .texts import make_turn, text_of

ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "model", "bot"), "assistant"),
    "system": "system",
}

TAG = re.compile(r"<(?:image|video)>", re.IGNORECASE)

FIRST_TAGS, LAST_TAGS = (
    re.compile(pattern, re.IGNORECASE)
    for pattern in (r"\A\s*(?:<(?:image|video)>\s*)+", r"(?:\s*<(?:image|video)>)+\s*\Z")
)

REMOTE = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)

PICTURES = ("image", "images")  # fields of a row for pictures


def read_turns(entries: Any, role: str, text: str) -> Conversation:
    """Return the turns of a conversation.

    A system prompt is written before the first question, as chat templates without a system role do.

    Args:
        entries: list of objects.
        role: name of the field with the role.
        text: name of the field with the text.

    Raises:
        RefusedRow: they are no conversation, or a text cannot be stored.
    """
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, Mapping) for entry in entries):
        raise RefusedRow("no_turns", f"the turns are {entries!r:.60}")
    said = [(_role(entry, role), text_of(entry.get(text), text)) for entry in entries]
    system = said.pop(0)[1].strip() if said[0][0] == "system" else ""
    roles = [who for who, _ in said]
    if roles != [("user", "assistant")[place % 2] for place in range(len(roles))]:
        raise RefusedRow("wrong_order", f"the roles are {', '.join(roles)}"[:80])
    if len(said) % 2:
        raise RefusedRow("unanswered", f"{said[-1][1]!r:.60} has no answer")
    if not said:
        raise RefusedRow("no_turns", "there is only a system prompt")
    questions = [_without_tags(words, place == 0) for place, (_, words) in enumerate(said[::2])]
    for _, words in said[1::2]:
        _check_no_tag(words)
    if not questions[0]:
        raise RefusedRow("empty_question", "the first question is empty")
    questions[0] = f"{system}\n{questions[0]}" if system else questions[0]
    return tuple(make_turn(asked, words) for asked, (_, words) in zip(questions, said[1::2], strict=True))


def one_video(row: Row, names: Sequence[str] = ("video", "videos")) -> str:
    """Return the only video of a row.

    Raises:
        RefusedRow: there is none, there are several, or the row has images.
    """
    if pictures := next((row[name] for name in PICTURES if row.get(name)), None):
        raise RefusedRow("has_images", f"images {pictures!r:.60}")
    given = next((row[name] for name in names if row.get(name)), None)
    listed = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    if not listed:
        raise RefusedRow("no_video", f"the row has no {' and no '.join(names)}: {', '.join(row)}"[:120])
    if len(listed) > 1:
        raise RefusedRow("several_videos", f"{len(listed)} videos: {', '.join(map(str, listed))}"[:120])
    return video_name(listed[0])


def video_name(value: Any) -> str:
    """Return the path or name of a video.

    Raises:
        RefusedRow: it is not text, empty or a URL.
    """
    name = text_of(value, "the video").strip().removeprefix("file://")
    if not name:
        raise RefusedRow("no_video", "the name of the video is empty")
    if REMOTE.match(name):
        raise RefusedRow("remote_video", name[:120])
    return name


def _role(entry: Mapping[str, Any], name: str) -> str:
    role = ROLES.get(str(entry.get(name)).lower())
    if role is None:
        raise RefusedRow("unknown_role", f"a turn is of {entry.get(name)!r:.40}")
    return role


def _without_tags(text: str, first: bool) -> str:
    """Return a question without the tag at its start or end, which only the first question may have."""
    inner = LAST_TAGS.sub("", FIRST_TAGS.sub("", text)) if first else text
    if len(TAG.findall(text)) - len(TAG.findall(inner)) > 1:
        raise RefusedRow("repeated_tag", f"{text!r:.60} has several tags")
    _check_no_tag(inner)
    return inner.strip()


def _check_no_tag(text: str) -> None:
    if found := TAG.search(text):
        raise RefusedRow("misplaced_tag", f"{found[0]} in {text!r:.60}")
