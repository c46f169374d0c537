"""Seeded procedural long videos with known events, questions, answers and evidence.

A video is a row of textured scenes with static glyphs; brief *flashes* (a glyph on a white disc), one *mover* (a glyph
on a dark disc that crosses the frame) and irrelevant one-frame *blinks* happen in it. numpy only. Every random number
is an integer read off the raw PCG64 stream, which numpy promises not to change, so a key gives the same bytes on every
machine and version. Everything is constructed; nothing is drawn again until it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .draws import Draws
from .errors import DataError
from .evidence import evidence_mask
from .questions import CHANCE, DIRECTIONS, QUESTION_TYPES, VOCABULARY, Box, Question, ask
from .render import BLACK, COLORS, SHAPES, TEXTURES, WHITE, glyph, paint, paint_texture

__all__ = [
    "CHANCE",
    "MIN_FRAMES",
    "QUESTION_TYPES",
    "SPLITS",
    "VOCABULARY",
    "Event",
    "Question",
    "Scene",
    "Video",
    "evidence_mask",
    "generate",
]

SCHEMA_VERSION = 1
SPLITS = {"train": 0, "val": 1, "test": 2}  # part of the RNG key: splits are disjoint by construction
MIN_FRAMES = 16  # four flashes of three frames with gaps, and four scenes, fit
FRAME_SECONDS = 0.5
# Sixteenths of the frame. Glyphs stand on a lattice of that step: a tower of patches of two steps then meets four
# phases of a shape, not 64, and learns shapes in minutes.
LATTICE, DISC, GLYPH = 16, 5, 3


@dataclass(frozen=True)
class Scene:
    """Frames first..last (inclusive) over one background; view: a box in which it is seen bare."""

    first: int
    last: int
    texture: str
    view: Box


@dataclass(frozen=True)
class Event:
    """A glyph shown in frames first..last (inclusive).

    kind: "flash" and "mover" are what questions ask about; "static" and "blink" are distractors.
    path: upper left corners (y, x) in fractions of the frame, one per frame, or a single one if it stands still.
    """

    kind: str
    shape: str
    color: str
    direction: str
    first: int
    last: int
    path: tuple[tuple[float, float], ...]
    extent: float

    def box(self, frame: int) -> Box:
        """Where it is in that frame: (frame, y0, x0, y1, x1), fractions."""
        y, x = self.path[min(frame - self.first, len(self.path) - 1)]
        return (frame, y, x, y + self.extent, x + self.extent)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One box per frame in which it is seen."""
        return tuple(self.box(frame) for frame in range(self.first, self.last + 1))


@dataclass(frozen=True)
class Video:
    """frames uint8 (T, S, S, 3); times float32 (T,) seconds; key (seed, split, index)."""

    frames: np.ndarray
    times: np.ndarray
    scenes: tuple[Scene, ...]
    events: tuple[Event, ...]
    questions: tuple[Question, ...]
    key: tuple[int, str, int]

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
    index: int, *, seed: int = 0, split: str = "train", frames: int = 64, clutter: float = 0.5, size: int = 64
) -> Video:
    """Make video number `index` of a split.

    frames: at least MIN_FRAMES. clutter: irrelevant blinking glyphs per frame, 0 to 4. size: pixels, a multiple of 16.
    Raises DataError for anything outside these.
    """
    _check(index, seed, split, frames, clutter, size)
    draws = Draws(seed, SPLITS[split], index)
    names = draws.permutation(len(SHAPES))
    mover = _mover(draws, SHAPES[names[-1]], frames)
    flashes = _flashes(draws, [SHAPES[i] for i in names[: draws.between(1, 4)]], mover, frames)
    scenes = _scenes(draws, (*flashes, mover), frames)
    distractors = _distractors(draws, scenes, frames, round(clutter * 1000))
    events = (*distractors, mover, *flashes)  # in painting order: what is asked about is never covered
    questions = ask(scenes, events, draws)
    pixels = _render(draws, scenes, events, frames, size)
    times = (np.arange(frames) * FRAME_SECONDS).astype(np.float32)
    return Video(pixels, times, scenes, events, questions, (seed, split, index))


def _check(index: int, seed: int, split: str, frames: int, clutter: float, size: int) -> None:
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if frames < MIN_FRAMES:
        raise DataError(f"frames must be at least {MIN_FRAMES}, not {frames}: the events would not fit")
    if index < 0 or seed < 0:
        raise DataError(f"index and seed must not be negative, got {index} and {seed}")
    if not 0 <= clutter <= 4:
        raise DataError(f"clutter must be between 0 and 4 blinks per frame, not {clutter}")
    if size < 32 or size % 16:
        raise DataError(f"size must be a multiple of 16 and at least 32 pixels, not {size}")


def _mover(draws: Draws, shape: str, frames: int) -> Event:
    """Crosses the frame from near one edge to near the other, in a lane of its own."""
    room = LATTICE - DISC
    length = draws.between(6, 8)
    first = draws.below(frames - length + 1)
    direction = draws.pick(DIRECTIONS)
    lane = draws.between(1, room - 1)
    begin, end = draws.below(3), room - draws.below(3)
    track = [begin + (end - begin) * i // (length - 1) for i in range(length)]
    if direction in ("left", "up"):
        track = [room - at for at in track]
    path = [(lane, at) if direction in ("left", "right") else (at, lane) for at in track]
    fractions = tuple((y / LATTICE, x / LATTICE) for y, x in path)
    color = draws.pick(tuple(COLORS))
    return Event("mover", shape, color, direction, first, first + length - 1, fractions, DISC / LATTICE)


def _flashes(draws: Draws, shapes: Sequence[str], mover: Event, frames: int) -> tuple[Event, ...]:
    """One flash per shape, in order of time, never two at once and never on the mover."""
    lengths = [draws.between(2, 3) for _ in shapes]
    events = []
    for shape, length, first in zip(shapes, lengths, draws.starts(lengths, frames, gap=1), strict=True):
        path = (_spot(draws, mover, first, first + length - 1),)
        color = draws.pick(tuple(COLORS))
        events.append(Event("flash", shape, color, "", first, first + length - 1, path, DISC / LATTICE))
    return tuple(events)


def _spot(draws: Draws, mover: Event, first: int, last: int) -> tuple[float, float]:
    """A corner for a disc that is clear of the mover: the first clear one of a shuffled grid with a common jitter."""
    step = (LATTICE - DISC) // 3
    jitter = draws.below(step), draws.below(step)
    busy = [mover.box(frame) for frame in range(max(first, mover.first), min(last, mover.last) + 1)]
    for cell in draws.permutation(16):
        y, x = ((start + at * step) / LATTICE for start, at in zip(jitter, divmod(cell, 4), strict=True))
        if all(abs(y - box[1]) >= mover.extent or abs(x - box[2]) >= mover.extent for box in busy):
            break
    return y, x


def _scenes(draws: Draws, events: Sequence[Event], frames: int) -> tuple[Scene, ...]:
    """One to four scenes of different textures."""
    count = draws.between(1, 4)
    shortest = max(3, frames // 8)
    slack = frames - shortest * count
    cuts = [
        0,
        *(c + shortest * (i + 1) for i, c in enumerate(sorted(draws.below(slack + 1) for _ in range(count - 1)))),
        frames,
    ]
    scenes = []
    for first, end, kind in zip(cuts[:-1], cuts[1:], draws.permutation(len(TEXTURES)), strict=False):
        scenes.append(Scene(first, end - 1, TEXTURES[kind], _clear_view(events, (first + end - 1) // 2)))
    return tuple(scenes)


def _clear_view(events: Sequence[Event], frame: int) -> Box:
    """The quarter of a frame that its events cover least (the first of equals)."""
    boxes = [event.box(frame) for event in events if event.first <= frame <= event.last]

    def covered(y: float, x: float) -> float:
        return sum(
            max(0.0, min(b[3], y + 0.5) - max(b[1], y)) * max(0.0, min(b[4], x + 0.5) - max(b[2], x)) for b in boxes
        )

    y, x = min(((y, x) for y in (0.0, 0.5) for x in (0.0, 0.5)), key=lambda corner: covered(*corner))
    return (frame, y, x, y + 0.5, x + 0.5)


def _distractors(draws: Draws, scenes: Sequence[Scene], frames: int, per_mille: int) -> tuple[Event, ...]:
    """Up to two static glyphs a scene, and one-frame blinks at a rate per frame."""
    spans = [(scene.first, scene.last, "static") for scene in scenes for _ in range(draws.below(3))]
    for frame in range(frames):
        blinks = (per_mille + draws.below(1000)) // 1000
        spans += [(frame, frame, "blink")] * blinks
    room = LATTICE - GLYPH + 1
    return tuple(
        Event(
            kind,
            SHAPES[draws.below(len(SHAPES))],
            draws.pick(tuple(COLORS)),
            "",
            first,
            last,
            ((draws.below(room) / LATTICE, draws.below(room) / LATTICE),),
            GLYPH / LATTICE,
        )
        for first, last, kind in spans
    )


def _render(draws: Draws, scenes: Sequence[Scene], events: Sequence[Event], frames: int, size: int) -> np.ndarray:
    pixels = np.empty((frames, size, size, 3), np.uint8)
    for scene in scenes:
        dark = np.array([draws.between(70, 150) for _ in range(3)])
        light = dark + np.array([draws.between(40, 64) for _ in range(3)])
        colors = np.stack((light, dark) if draws.below(2) else (dark, light))
        period = size * draws.pick((8, 10, 12)) // 64
        pixels[scene.first : scene.last + 1] = paint_texture(scene.texture, size, period, colors)
    for event in events:
        _paint_event(pixels, event, size)
    # Sensor noise in -8..7 and a brightness step in -4..4 a frame; no painted value is near 0 or 255, so nothing wraps.
    noise = draws.bytes(pixels.size).reshape(pixels.shape) & 15
    steps = np.array([draws.between(-4, 4) - 8 for _ in range(frames)]).astype(np.uint8)
    noise += steps[:, None, None, None]
    pixels += noise
    return pixels


def _paint_event(pixels: np.ndarray, event: Event, size: int) -> None:
    extent, inner = round(event.extent * size), size * GLYPH // LATTICE
    inset = (extent - inner) // 2
    halo = {"flash": WHITE, "mover": BLACK}.get(event.kind)
    for step, corner in enumerate(event.path):
        y, x = (round(fraction * size) for fraction in corner)
        end = event.last + 1 if len(event.path) == 1 else event.first + step + 1
        shown = pixels[event.first + step : end]
        if halo:
            paint(shown, glyph("circle", extent), y, x, halo)
        paint(shown, glyph(event.shape, inner), y + inset, x + inset, COLORS[event.color])
