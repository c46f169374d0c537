"""Generation of long videos with known events, questions, answers and evidence from a seed.

A video is a sequence of textured scenes. It contains brief *flashes* (a glyph on a white disc), one *mover* (a glyph on
a dark disc that crosses the frame) and irrelevant glyphs and discs. Its difficulty determines how the camera, the
brightness and the background change, and may add a crowd of discs that differ from flashes in their colour only, and
conspicuous things that no question asks for. Videos 2 i and 2 i + 1 are conflicting twins: the same frames, up to
sensor noise, in opposite order, so that no single frame reveals what happened first or in which direction something
moved.

Only numpy is required. All random numbers are integers from the raw PCG64 stream, which numpy guarantees not to change,
so a key gives the same bytes on every machine and in every version.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from framefold.data.question import SCHEMA_VERSION, Question
from framefold.data.random_stream import RandomStream
from framefold.data.splits import SPLITS
from framefold.errors import DataError

from .conspicuous import EVERY, paint_conspicuous, sample_conspicuous
from .crowd import Crowd, arrange, flashes_as_crowd, sample_crowd
from .difficulty import Difficulty, resolve_difficulty
from .discs import paint_discs
from .questions import ask_about_events, every_question, list_question
from .render import COLORS, HALO, STYLES, fill_mask, glyph, mix
from .scenes import Backdrop, Scene, build_backdrops, sample_scenes
from .timeline import GLYPH, Event, QuietPeriod, sample_distractors, sample_events

MIN_FRAMES, MAX_FRAMES = 16, 1024  # three flashes with gaps, the mover and four scenes fit into 16 frames

FRAME_SECONDS = 0.5

_VIDEO, _QUESTIONS, _SENSOR, _PAINT = range(4)  # parts of the random key


@dataclass(frozen=True)
class Video:
    """A synthetic video.

    Attributes:
        frames: (T, S, S, 3) uint8.
        times: (T,) float32 seconds.
        scenes: the scenes, in temporal order.
        events: flashes, mover and distractors, in the order in which they are rendered.
        questions: one question of each possible type.
        key: seed, split and number of the video.
        counted: colour of the flashes that a question counts, or "".
        crowd: discs that no question asks for, or None.
    """

    frames: np.ndarray
    times: np.ndarray
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    questions: tuple[Question, ...]
    key: tuple[int, str, int]
    counted: str
    crowd: Crowd | None = None

    def every_question(self) -> tuple[Question, ...]:
        """Return all questions that are possible; `questions` is a random choice of these."""
        return tuple(every_question(self.scenes, self.events, len(self.frames), self.counted))

    def annotations(self) -> dict[str, Any]:
        """Return everything except the pixels as JSON values, for the json file of the sample."""
        annotations = {
            "schema": SCHEMA_VERSION,
            "key": list(self.key),
            "times": [float(time) for time in self.times],
            "questions": [asdict(question) for question in self.questions],
            "events": [event.to_dict() for event in self.events],
            "scenes": [asdict(scene) for scene in self.scenes],
        }
        return annotations | ({"crowd": self.crowd.to_dict()} if self.crowd else {})


def generate(
    index: int,
    *,
    seed: int = 0,
    split: str = "train",
    frames: int = 64,
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    size: int | None = None,
) -> Video:
    """Generate video number `index` of a split.

    Args:
        index: number of the video.
        seed: seed of the generator.
        split: train, val or test.
        frames: number of frames, MIN_FRAMES to MAX_FRAMES.
        difficulty: a preset or settings.
        style: "normal", "held_out" for other glyphs and textures with the same names, or "natural" for textures that
            are cast on photographs, which needs scikit-image.
        size: height and width in pixels, a multiple of the difficulty's lattice; by default the difficulty's size.

    Raises:
        DataError: a setting is out of range.
    """
    difficulty = resolve_difficulty(difficulty)
    size = size or difficulty.size
    _check(index, seed, split, frames, style, size, difficulty.lattice)
    pair = (seed, SPLITS[split], index // 2)
    stream = RandomStream(*pair, _VIDEO)
    flashes, counted, mover, quiet = sample_events(stream, frames, difficulty)
    if difficulty.crowd:
        arranged = arrange(stream, frames, flashes, mover, difficulty)
        flashes, mover = arranged.flashes, arranged.mover
    scenes = sample_scenes(stream, (*flashes, mover), frames, difficulty)
    brief = sample_distractors(stream, frames, difficulty, quiet)
    backdrops, statics = build_backdrops(stream, scenes, quiet, difficulty, SPLITS[split], frames, size, style)
    crowd = sample_crowd(stream, frames, arranged, difficulty) if difficulty.crowd else None
    if difficulty.conspicuous:
        spared = {scene.view[0] for scene in scenes} | {box[0] for flash in flashes for box in flash.boxes}
        brief = [*brief, *sample_conspicuous(stream, frames, difficulty, mover, spared)]
    # In rendering order: events that questions are about are never covered.
    events: list[Event] = [*statics, *brief, mover, *flashes]
    paint = RandomStream(*pair, _PAINT)
    pixels = _render(scenes, backdrops, events, frames, size, style, difficulty.lattice, crowd, paint)
    _add_pulses(stream, pixels, difficulty, quiet)
    if index % 2:
        pixels, scenes, events = _reversed(pixels, scenes, events)
        crowd = crowd.reversed(frames) if crowd else None
    _add_noise(RandomStream(seed, SPLITS[split], index, _SENSOR), pixels)
    times = (np.arange(frames) * FRAME_SECONDS).astype(np.float32)
    counted = "" if difficulty.repeats else counted
    questions = ask_about_events(scenes, events, frames, counted, RandomStream(*pair, _QUESTIONS))
    questions += (list_question(events),) if difficulty.lists else ()
    return Video(pixels, times, scenes, tuple(events), questions, (seed, split, index), counted, crowd)


def _check(index: int, seed: int, split: str, frames: int, style: str, size: int, lattice: int) -> None:
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
    if size < 2 * lattice or size % lattice:
        raise DataError(f"size must be a multiple of {lattice} and at least {2 * lattice} pixels, not {size}")


def _render(
    scenes: Sequence[Scene],
    backdrops: Sequence[Backdrop],
    events: Sequence[Event],
    frames: int,
    size: int,
    style: str,
    lattice: int,
    crowd: Crowd | None,
    stream: RandomStream,
) -> np.ndarray:
    """Return pixels (T, S, S, 3) uint8 without sensor noise."""
    pixels = np.empty((frames, size, size, 3), np.uint8)
    for scene, backdrop in zip(scenes, backdrops, strict=True):
        for frame in range(scene.first, scene.last + 1):
            backdrop.render(frame, pixels[frame])
    for scene, (old, new) in zip(scenes[1:], zip(backdrops, backdrops[1:], strict=False), strict=True):
        _fade(pixels, scene, old, new)
    tint = np.zeros((frames, 3), np.int64)
    if crowd:
        for scene, backdrop in zip(scenes, backdrops, strict=True):
            tint[scene.first : scene.last + 1] = backdrop.bare.reshape(-1, 3).sum(axis=0) * 3 // backdrop.bare.size
        paint_discs(pixels, crowd, tint, lattice, style)
    for event in events:
        if event.kind in EVERY and not event.shape:
            paint_conspicuous(stream, pixels, event, lattice)
        elif event.kind not in ("static", *(["flash"] if crowd else [])):  # static glyphs are part of the backdrop
            _render_event(pixels, event, size, lattice, style, tint)
    if crowd:
        flashes = [event for event in events if event.kind == "flash"]
        paint_discs(pixels, flashes_as_crowd(flashes, crowd.sway, lattice), tint, lattice, style)
    return pixels


def _fade(pixels: np.ndarray, scene: Scene, old: Backdrop, new: Backdrop) -> None:
    """Cross-fade two backdrops around the first frame of a scene, in place."""
    before, after = np.empty_like(pixels[0]), np.empty_like(pixels[0])
    steps = 2 * scene.fade + 1
    for step, frame in enumerate(range(scene.first - scene.fade, scene.first + scene.fade), start=1):
        old.render(frame, before)
        new.render(frame, after)
        pixels[frame] = (before * np.uint16(steps - step) + after * np.uint16(step)) // np.uint16(steps)


def _render_event(pixels: np.ndarray, event: Event, size: int, lattice: int, style: str, tint: np.ndarray) -> None:
    extent, inner = round(event.extent * size), size * GLYPH // lattice
    inset = (extent - inner) // 2
    halo = HALO.get(event.kind)
    for step, corner in enumerate(event.path):
        y, x = (round(fraction * size) for fraction in corner)
        end = event.last + 1 if len(event.path) == 1 else event.first + step + 1
        visible, background = pixels[event.first + step : end], tint[event.first + step]
        if halo:
            fill_mask(visible, glyph("circle", extent), y, x, mix(halo, background, event.opacity))
        if event.shape:
            color = mix(COLORS[event.color], background, event.opacity)
            fill_mask(visible, glyph(event.shape, inner, style), y + inset, x + inset, color)


def _add_pulses(stream: RandomStream, pixels: np.ndarray, difficulty: Difficulty, quiet: QuietPeriod) -> None:
    """Lighten or darken a few frames at a time, in place; the result leaves room for sensor noise without overflow."""
    frames = len(pixels)
    for _ in range(round(difficulty.pulses * frames)):
        first, length, gain = stream.below(frames), stream.between(2, 4), stream.between(18, 32)
        gain = gain if stream.below(2) else -gain
        for frame in range(first, min(first + length, frames)):
            if not quiet.first <= frame < quiet.end:
                pixels[frame] = np.clip(pixels[frame] + np.int16(gain), 12, 243)


def _reversed(
    pixels: np.ndarray, scenes: Sequence[Scene], events: Sequence[Event]
) -> tuple[np.ndarray, tuple[Scene, ...], list[Event]]:
    """Return the twin: the same frames in opposite order."""
    frames = len(pixels)
    fades = [*(scene.fade for scene in scenes[1:]), 0]
    reversed_scenes = [scene.reversed(frames, fade) for scene, fade in zip(scenes, fades, strict=True)]
    # Events stay in rendering order by kind; the flashes are in temporal order again.
    flashes = [event.reversed(frames) for event in reversed(events) if event.kind == "flash"]
    others = [event.reversed(frames) for event in events if event.kind != "flash"]
    return np.ascontiguousarray(pixels[::-1]), tuple(reversed_scenes[::-1]), [*others, *flashes]


def _add_noise(stream: RandomStream, pixels: np.ndarray) -> None:
    """Add noise in -8..7 and a brightness offset per frame in -4..4, in place; pixels of 12..243 never overflow."""
    noise = stream.bytes(pixels.size).reshape(pixels.shape) & 15
    steps = np.array([stream.between(-4, 4) - 8 for _ in range(len(pixels))]).astype(np.uint8)
    noise += steps[:, None, None, None]
    pixels += noise
