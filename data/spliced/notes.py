"""What is known of a spliced video: captions, cuts, clips, as the json of its sample holds them."""

from __future__ import annotations

import math
from typing import Any

from framefold.data.question import SCHEMA_VERSION

from .clips import Clip
from .plan import Plan
from .settings import Setup


def annotate(plan: Plan, setup: Setup, settings: dict[str, Any]) -> dict[str, Any]:
    """What is known of a video but the questions, as plain JSON values: see data/README.md, field by field."""
    captions: list[dict[str, Any]] = []
    at = 0
    for clip in plan.clips:
        captions.append(
            {
                "text": clip.caption,
                "label": clip.label,
                "seconds": [at / setup.fps, (at + clip.length) / setup.fps],
                "frames": [at, at + clip.length],
                "clip": clip.id,
                "qa": _own(clip, at, setup.fps),
            }
        )
        at += clip.length
    sources = {clip.id: clip for clip in plan.clips}
    return {
        "schema": SCHEMA_VERSION,
        "key": list(plan.key),
        "times": [frame / setup.fps for frame in range(at)],
        "questions": [],
        "captions": captions,
        "boundaries": [{"seconds": one["seconds"][0], "frame": one["frames"][0]} for one in captions[1:]],
        "clips": [
            {"id": clip.id, "file": clip.file, "sha256": clip.source, "start": clip.start, "end": clip.end}
            for clip in sources.values()
        ],
        "splice": settings,
    }


def _own(clip: Clip, at: int, fps: float) -> list[dict[str, Any]]:
    """A clip's own questions, with the frames and seconds of the video that they are about."""
    out = []
    for question in clip.questions:
        low = 0 if question.start is None else _frame(question.start - clip.start, fps)
        high = clip.length if question.end is None else _frame(question.end - clip.start, fps)
        first = min(max(low, 0), clip.length - 1)
        end = min(max(high, first + 1), clip.length)
        span = {"frames": [at + first, at + end], "seconds": [(at + first) / fps, (at + end) / fps]}
        out.append({"question": question.text, "answer": question.answer, "choices": list(question.choices)} | span)
    return out


def _frame(seconds: float, fps: float) -> int:
    """The first frame of a clip that is taken at a time, or after it: they are taken at middles."""
    return math.ceil(seconds * fps - 0.5 - 1e-6)
