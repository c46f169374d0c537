"""Things in a video that are conspicuous and that no question asks for, as events and as pixels.

Noise bursts, subtitles, cuts to black, glare, moving logos, blinking corners and coarse blocks, as a bad codec leaves
them. They lie above the background and the crowd, and below flashes and the mover, so they never hide an answer.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from framefold.data.random_stream import RandomStream

from .crowd import sample_opacity
from .difficulty import Difficulty
from .render import SHAPES
from .timeline import Event, sample_mover

DARKEST, LIGHTEST = 12, 243  # limits of pixels, which leave room for sensor noise

# Frames of video per thing, at a rate of 1.
EVERY = {"burst": 6, "blocks": 8, "glare": 10, "logo": 12, "subtitle": 32, "black": 20, "blinker": 40}

_Size = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# Height, width and duration, shortest and longest, in steps of the lattice and in frames.
_SIZES: dict[str, _Size] = {
    "burst": ((6, 14), (6, 14), (1, 2)),
    "blocks": ((8, 16), (8, 20), (1, 3)),
    "glare": ((10, 18), (0, 0), (1, 2)),
    "subtitle": ((3, 3), (16, 26), (8, 14)),
}


def sample_conspicuous(
    stream: RandomStream, frames: int, difficulty: Difficulty, mover: Event, spared: Collection[int]
) -> list[Event]:
    """Sample conspicuous things.

    Args:
        stream: source of random numbers.
        frames: number of frames of the video.
        difficulty: settings of the generator.
        mover: the mover, whose shape no logo has.
        spared: frames that are never black, because a background is asked for in them.
    """
    events: list[Event] = []
    for kind, every in EVERY.items():
        for _ in range((round(1000 * difficulty.conspicuous * frames) // every + stream.below(1000)) // 1000):
            if kind == "black":
                events += _black(stream, frames, spared)
            elif kind == "logo":
                events.append(_logo(stream, frames, difficulty, mover))
            elif kind == "blinker":
                events += _blinker(stream, frames, difficulty.lattice)
            else:
                events.append(_rectangle(stream, kind, frames, difficulty.lattice))
    return events


def _black(stream: RandomStream, frames: int, spared: Collection[int]) -> list[Event]:
    first = stream.below(frames)
    return [] if first in spared else [Event("black", "", "", "", first, first, ((0.0, 0.0),), 1.0)]


def _logo(stream: RandomStream, frames: int, difficulty: Difficulty, mover: Event) -> Event:
    others = [shape for shape in SHAPES if shape != mover.shape]
    moving, opacity = sample_mover(stream, frames, difficulty), sample_opacity(stream, difficulty)
    return replace(moving, kind="logo", shape=stream.pick(others), direction="", opacity=opacity)


def _blinker(stream: RandomStream, frames: int, lattice: int) -> list[Event]:
    extent, period, count = stream.between(4, 7), stream.between(1, 2), stream.between(4, 8)
    y, x = (stream.below(2) * (lattice - extent) / lattice for _ in range(2))
    start = stream.below(frames)
    firsts = range(start, min(start + 2 * period * count, frames), 2 * period)
    return [
        Event("blinker", "", "", "", first, min(first + period, frames) - 1, ((y, x),), extent / lattice)
        for first in firsts
    ]


def _rectangle(stream: RandomStream, kind: str, frames: int, lattice: int) -> Event:
    height, width, duration = (stream.between(*limits) for limits in _SIZES[kind])
    height, width = min(height, lattice), min(width or height, lattice)
    first = stream.below(frames)
    y, x = stream.below(lattice - height + 1), stream.below(lattice - width + 1)
    y = lattice - height - 1 if kind == "subtitle" else y
    last = min(first + duration, frames) - 1
    corner = (y / lattice, x / lattice)
    return Event(kind, "", "", "", first, last, (corner,), height / lattice, width / lattice)


def paint_conspicuous(stream: RandomStream, pixels: np.ndarray, event: Event, lattice: int) -> None:
    """Paint a conspicuous thing without a glyph in its frames, in place; the stream draws what it looks like."""
    size = pixels.shape[1]
    unit = size // lattice
    _, y0, x0, y1, x1 = (round(edge * size) for edge in event.box(event.first))
    for frame in range(event.first, event.last + 1):
        part = pixels[frame, y0:y1, x0:x1]
        if event.kind == "burst" or (event.kind == "blinker" and frame == event.first):
            pattern = _noise(stream, part, unit)
        elif event.kind == "subtitle" and frame == event.first:
            pattern = _letters(stream, part)
        elif event.kind == "blocks":
            pattern = _coarse(part, 4 * unit)
        elif event.kind == "glare":
            pattern = _lightened(part)
        elif event.kind == "black":
            pattern = np.full_like(part, DARKEST)
        part[:] = pattern


def _noise(stream: RandomStream, part: np.ndarray, unit: int) -> np.ndarray:
    """Return coloured noise in squares of a step."""
    height, width, _ = part.shape
    rows, columns = -(-height // unit), -(-width // unit)
    values = stream.bytes(3 * rows * columns).reshape(rows, columns, 3) % np.uint8(LIGHTEST - DARKEST)
    return (values + np.uint8(DARKEST)).repeat(unit, axis=0).repeat(unit, axis=1)[:height, :width]


def _letters(stream: RandomStream, part: np.ndarray) -> np.ndarray:
    """Return light marks on a dark band, with gaps like those between words."""
    height, width, _ = part.shape
    rows, columns = -(-height // 2), -(-width // 2)
    marks = stream.bytes(rows * columns).reshape(rows, columns) < 128
    marks[[0, -1]] = False
    marks[:, stream.bytes(columns) < 64] = False
    band = np.where(marks, np.uint8(225), np.uint8(30)).repeat(2, axis=0).repeat(2, axis=1)
    return band[:height, :width, None]


def _coarse(part: np.ndarray, block: int) -> np.ndarray:
    """Return the means of blocks, in steps of 24 levels."""
    starts = [np.arange(0, length, block) for length in part.shape[:2]]
    counts = [np.diff(start, append=length) for start, length in zip(starts, part.shape[:2], strict=True)]
    sums = np.add.reduceat(np.add.reduceat(part.astype(np.int64), starts[0], axis=0), starts[1], axis=1)
    means = sums // (counts[0][:, None, None] * counts[1][:, None])
    coarse = np.clip(means // 24 * 24 + 12, DARKEST, LIGHTEST).astype(np.uint8)
    return coarse.repeat(counts[0], axis=0).repeat(counts[1], axis=1)


def _lightened(part: np.ndarray) -> np.ndarray:
    """Return a disc of glare, brightest in its middle."""
    height, width, _ = part.shape
    y, x = (2 * np.arange(length) - length + 1 for length in (height, width))
    gain = np.clip(160 - (160 * (y[:, None] ** 2 + x**2)) // (height * width), 0, None)
    return np.minimum(part + gain[..., None], LIGHTEST).astype(np.uint8)
