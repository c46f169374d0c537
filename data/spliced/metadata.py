"""The json file of a spliced video: captions, cuts and clips."""

from __future__ import annotations

import math
from typing import Any

from framefold.data.question import SCHEMA_VERSION

from .clips import Clip
from .plan import VideoPlan
from .settings import SpliceSettings


def build_metadata(plan: VideoPlan, settings: SpliceSettings, recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a video without its questions, as JSON values; data/README.md describes the fields.

    Args:
        plan: clips of the video.
        settings: settings of all videos.
        recorded: the settings as they are stored with every video.
    """
    captions: list[dict[str, Any]] = []
    start = 0
    for clip in plan.clips:
        captions.append(
            {
                "text": clip.caption,
                "label": clip.label,
                "seconds": [start / settings.fps, (start + clip.length) / settings.fps],
                "frames": [start, start + clip.length],
                "clip": clip.id,
                "qa": _clip_questions(clip, start, settings.fps),
            }
        )
        start += clip.length
    sources = {clip.id: clip for clip in plan.clips}
    return {
        "schema": SCHEMA_VERSION,
        "key": list(plan.key),
        "times": [frame / settings.fps for frame in range(start)],
        "questions": [],
        "captions": captions,
        "boundaries": [{"seconds": caption["seconds"][0], "frame": caption["frames"][0]} for caption in captions[1:]],
        "clips": [
            {"id": clip.id, "file": clip.file, "sha256": clip.source, "start": clip.start, "end": clip.end}
            for clip in sources.values()
        ],
        "splice": recorded,
    }


def _clip_questions(clip: Clip, start: int, fps: float) -> list[dict[str, Any]]:
    """Return the questions of a clip that starts at frame `start`, with the frames and seconds that they are about."""
    questions = []
    for question in clip.questions:
        low = 0 if question.start is None else _frame(question.start - clip.start, fps)
        high = clip.length if question.end is None else _frame(question.end - clip.start, fps)
        first = min(max(low, 0), clip.length - 1)
        end = min(max(high, first + 1), clip.length)
        span = {"frames": [start + first, start + end], "seconds": [(start + first) / fps, (start + end) / fps]}
        texts = {"question": question.text, "answer": question.answer, "choices": list(question.choices)}
        questions.append(texts | span)
    return questions


def _frame(seconds: float, fps: float) -> int:
    """Return the first stored frame of a clip at or after a time; frames are taken at midpoints of intervals."""
    return math.ceil(seconds * fps - 0.5 - 1e-6)
