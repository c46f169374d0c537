"""Seeded procedural long videos with known events, questions, answers and evidence.

A video is a row of textured scenes; brief *flashes* (a glyph on a white disc), one *mover* (a glyph on a dark disc that
crosses the frame) and irrelevant glyphs and discs happen in it, while the camera, the light and the background move as
its difficulty says. Videos 2 i and 2 i + 1 are conflicting twins: the same frames, up to sensor noise, in opposite
order, so that no single frame tells what was first or which way something went.

numpy only. Every random number is an integer read off the raw PCG64 stream, which numpy promises not to change, so a
key gives the same bytes on every machine and version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from framefold.data.evidence import evidence_mask
from framefold.data.question import SCHEMA_VERSION, Question
from framefold.data.random_stream import RandomStream
from framefold.data.splits import SPLITS
from framefold.errors import DataError

from .difficulty import Difficulty, difficulty_of
from .questions import CHANCE, HEADLINE, QUESTION_TYPES, VOCABULARY, ask_about_events, every_question
from .render import COLORS, HALO, STYLES, glyph, paint_mask
from .scenes import Backdrop, Scene, build_backdrops, draw_scenes
from .timeline import GLYPH, LATTICE, Event, Stretch, draw_distractors, draw_events

__all__ = [
    "CHANCE",
    "HEADLINE",
    "MIN_FRAMES",
    "QUESTION_TYPES",
    "SPLITS",
    "STYLES",
    "VOCABULARY",
    "Event",
    "Question",
    "Scene",
    "Video",
    "evidence_mask",
    "generate",
]

MIN_FRAMES, MAX_FRAMES = 16, 1024  # three flashes with gaps, the mover and four scenes fit

FRAME_SECONDS = 0.5

_FILM, _ASK, _SENSOR = range(3)


@dataclass(frozen=True)
class Video:
    """frames uint8 (T, S, S, 3); times float32 (T,) seconds; key (seed, split, index); counted: a colour of flashes."""

    frames: np.ndarray
    times: np.ndarray
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    questions: tuple[Question, ...]
    key: tuple[int, str, int]
    counted: str

    def every_question(self) -> tuple[Question, ...]:
        """All that can be asked about it; `questions` is a draw from these."""
        return tuple(every_question(self.scenes, self.events, len(self.frames), self.counted))

    def annotations(self) -> dict[str, Any]:
        """All but the pixels, as plain JSON values (what the shards carry)."""
        return {
            "schema": SCHEMA_VERSION,
            "key": list(self.key),
            "times": [float(time) for time in self.times],
            "questions": [asdict(question) for question in self.questions],
            "events": [asdict(event) for event in self.events],
            "scenes": [asdict(scene) for scene in self.scenes],
        }


def generate(
    index: int,
    *,
    seed: int = 0,
    split: str = "train",
    frames: int = 64,
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    size: int = 64,
) -> Video:
    """Make video number `index` of a split.

    frames: MIN_FRAMES to MAX_FRAMES. difficulty: a preset or settings. style: "normal" or "held_out", which draws
    other glyphs and textures for the same words. size: pixels, a multiple of 16.
    Raises DataError for anything outside these.
    """
    _check(index, seed, split, frames, style, size)
    difficulty = difficulty_of(difficulty)
    pair = (seed, SPLITS[split], index // 2)
    draws = RandomStream(*pair, _FILM)
    flashes, counted, mover, quiet = draw_events(draws, frames, difficulty)
    scenes = draw_scenes(draws, (*flashes, mover), frames, difficulty)
    brief = draw_distractors(draws, frames, difficulty, quiet)
    backdrops, statics = build_backdrops(draws, scenes, quiet, difficulty, SPLITS[split], frames, size, style)
    events: list[Event] = [*statics, *brief, mover, *flashes]  # painting order: what is asked about is never covered
    pixels = _film(scenes, backdrops, events, frames, size, style)
    _pulse(draws, pixels, difficulty, quiet)
    if index % 2:
        pixels, scenes, events = _reversed(pixels, scenes, events)
    _sensor(RandomStream(seed, SPLITS[split], index, _SENSOR), pixels)
    times = (np.arange(frames) * FRAME_SECONDS).astype(np.float32)
    questions = ask_about_events(scenes, events, frames, counted, RandomStream(*pair, _ASK))
    return Video(pixels, times, scenes, tuple(events), questions, (seed, split, index), counted)


def _check(index: int, seed: int, split: str, frames: int, style: str, size: int) -> None:
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if style not in STYLES:
        raise DataError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
    if not MIN_FRAMES <= frames <= MAX_FRAMES:
        raise DataError(
            f"frames must be between {MIN_FRAMES}, or the events do not fit, and {MAX_FRAMES}; got {frames}"
        )
    if index < 0 or seed < 0:
        raise DataError(f"index and seed must not be negative, got {index} and {seed}")
    if size < 32 or size % 16:
        raise DataError(f"size must be a multiple of 16 and at least 32 pixels, not {size}")


def _film(
    scenes: Sequence[Scene], backdrops: Sequence[Backdrop], events: Sequence[Event], frames: int, size: int, style: str
) -> np.ndarray:
    """Pixels uint8 (T, S, S, 3) without sensor noise."""
    pixels = np.empty((frames, size, size, 3), np.uint8)
    for scene, backdrop in zip(scenes, backdrops, strict=True):
        for frame in range(scene.first, scene.last + 1):
            backdrop.draw(frame, pixels[frame])
    for scene, (old, new) in zip(scenes[1:], zip(backdrops, backdrops[1:], strict=False), strict=True):
        _fade(pixels, scene, old, new)
    for event in events:
        if event.kind != "static":  # those are on the backdrop
            _paint_event(pixels, event, size, style)
    return pixels


def _fade(pixels: np.ndarray, scene: Scene, old: Backdrop, new: Backdrop) -> None:
    """Cross-fade around the first frame of a scene."""
    before, after = np.empty_like(pixels[0]), np.empty_like(pixels[0])
    whole = 2 * scene.fade + 1
    for step, frame in enumerate(range(scene.first - scene.fade, scene.first + scene.fade), start=1):
        old.draw(frame, before)
        new.draw(frame, after)
        pixels[frame] = (before * np.uint16(whole - step) + after * np.uint16(step)) // np.uint16(whole)


def _paint_event(pixels: np.ndarray, event: Event, size: int, style: str) -> None:
    extent, inner = round(event.extent * size), size * GLYPH // LATTICE
    inset = (extent - inner) // 2
    halo = HALO.get(event.kind)
    for step, corner in enumerate(event.path):
        y, x = (round(fraction * size) for fraction in corner)
        end = event.last + 1 if len(event.path) == 1 else event.first + step + 1
        shown = pixels[event.first + step : end]
        if halo:
            paint_mask(shown, glyph("circle", extent), y, x, halo)
        if event.shape:
            paint_mask(shown, glyph(event.shape, inner, style), y + inset, x + inset, COLORS[event.color])


def _pulse(draws: RandomStream, pixels: np.ndarray, difficulty: Difficulty, quiet: Stretch) -> None:
    """Lighten or darken a few frames at a time, in place; stays clear of where sensor noise would wrap."""
    frames = len(pixels)
    for _ in range(round(difficulty.pulses * frames)):
        first, length, gain = draws.below(frames), draws.between(2, 4), draws.between(18, 32)
        gain = gain if draws.below(2) else -gain
        for frame in range(first, min(first + length, frames)):
            if not quiet.first <= frame < quiet.end:
                pixels[frame] = np.clip(pixels[frame] + np.int16(gain), 12, 243)


def _reversed(
    pixels: np.ndarray, scenes: Sequence[Scene], events: Sequence[Event]
) -> tuple[np.ndarray, tuple[Scene, ...], list[Event]]:
    """The twin: the same frames in opposite order."""
    frames = len(pixels)
    fades = [*(scene.fade for scene in scenes[1:]), 0]
    turned = [scene.reversed(frames, fade) for scene, fade in zip(scenes, fades, strict=True)]
    # Sorted by kind in painting order, so that flashes are in order of time again.
    flashes = [event.reversed(frames) for event in reversed(events) if event.kind == "flash"]
    others = [event.reversed(frames) for event in events if event.kind != "flash"]
    return np.ascontiguousarray(pixels[::-1]), tuple(turned[::-1]), [*others, *flashes]


def _sensor(draws: RandomStream, pixels: np.ndarray) -> None:
    """Noise in -8..7 and a brightness step in -4..4 a frame, in place; painted values are 12..243, so nothing wraps."""
    noise = draws.bytes(pixels.size).reshape(pixels.shape) & 15
    steps = np.array([draws.between(-4, 4) - 8 for _ in range(len(pixels))]).astype(np.uint8)
    noise += steps[:, None, None, None]
    pixels += noise
