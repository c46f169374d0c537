"""A crowd of discs with glyphs that no question asks for, between which the flashes appear.

A disc of the crowd differs from a flash in the colour of its disc, and in nothing else: glyphs, places, contrast,
durations, onset and motion are drawn in the same way. What tells evidence from the rest must therefore be learned; how
conspicuous a token is does not tell.

Coordinates are steps of the lattice. K is the number of discs, T that of frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from framefold.data.random_stream import RandomStream

from .difficulty import Difficulty
from .render import COLORS, HALO, SHAPES
from .timeline import DISC, FULL, SHORT, SLOW, Event, touch

# Colours of the discs of the crowd, as far from the backgrounds as the white of a flash. The last two are those of the
# mover, whose shape discs of it never have, and of a flash; discs of it have no glyph.
CROWD_HALOS = (
    *((240, 225, 130), (135, 200, 240), (228, 130, 30), (125, 50, 200), (20, 125, 115)),
    *(HALO["mover"], HALO["flash"]),
)

MARGIN = 2  # largest sway

STATIC = (10, 30)  # shortest and longest duration in frames of the discs that do not churn

_GAP = 3  # a place is empty for fewer frames than this between two discs


@dataclass(frozen=True)
class Crowd:
    """The discs of a crowd.

    Attributes:
        first: (K,) first frame.
        last: (K,) last frame, inclusive.
        corner: (K, 2) upper left corner (y, x) without sway; a disc may exceed the frame.
        halo: (K,) number of the colour of the disc in CROWD_HALOS.
        shape: (K,) number of the shape of its glyph, or -1.
        color: (K,) number of the colour of its glyph, or -1.
        opacity: (K,) contrast with the background, in sixteenths.
        sway: (T, 2) displacement of all discs and flashes in each frame.
    """

    first: np.ndarray
    last: np.ndarray
    corner: np.ndarray
    halo: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    opacity: np.ndarray
    sway: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: np.ndarray) -> Crowd:
        """Return the crowd with some of its discs."""
        columns = ("first", "last", "corner", "halo", "shape", "color", "opacity")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def reversed(self, frames: int) -> Crowd:
        """Return the crowd of the reversed video of `frames` frames."""
        return replace(self, first=frames - 1 - self.last, last=frames - 1 - self.first, sway=self.sway[::-1])

    def to_dict(self) -> dict[str, list[int] | list[list[int]]]:
        """Return the columns as JSON values."""
        return {name: column.tolist() for name, column in vars(self).items()}


@dataclass(frozen=True)
class Arrangement:
    """Where discs may be, and the flashes and the mover among them.

    Attributes:
        places: corners (y, x) of places that do not overlap.
        sway: (T, 2), see :class:`Crowd`.
        flashes: the flashes, at some of the places.
        mover: the mover.
    """

    places: tuple[tuple[int, int], ...]
    sway: np.ndarray
    flashes: list[Event]
    mover: Event


def arrange(
    stream: RandomStream, frames: int, flashes: Sequence[Event], mover: Event, difficulty: Difficulty
) -> Arrangement:
    """Sample places and sway, and give flashes and mover their place and contrast."""
    places, sway = _sample_places(stream, difficulty), _sample_sway(stream, frames, difficulty)
    mover = replace(mover, opacity=sample_opacity(stream, difficulty))
    return Arrangement(tuple(places), sway, _place_flashes(stream, flashes, mover, places, sway, difficulty), mover)


def _sample_sway(stream: RandomStream, frames: int, difficulty: Difficulty) -> np.ndarray:
    """Return (T, 2) displacements: a random walk of single steps within the margin."""
    sway, at = np.zeros((frames, 2), np.int64), [0, 0]
    for frame in range(1, frames):
        if stream.below(1000) < round(1000 * difficulty.sway):
            axis, step = stream.below(2), 2 * stream.below(2) - 1
            at[axis] += step if abs(at[axis] + step) <= MARGIN else -step
        sway[frame] = at
    return sway


def _sample_places(stream: RandomStream, difficulty: Difficulty) -> list[tuple[int, int]]:
    """Return places for discs that do not overlap; some exceed the frame, so that no part of it is preferred."""
    side = difficulty.lattice + 2 * MARGIN
    lengths = [DISC] * (side // DISC)
    rows = stream.interval_starts(lengths, side, gap=0)
    return [(y - MARGIN, x - MARGIN) for y in rows for x in stream.interval_starts(lengths, side, gap=0)]


def _place_flashes(
    stream: RandomStream,
    flashes: Sequence[Event],
    mover: Event,
    places: Sequence[tuple[int, int]],
    sway: np.ndarray,
    difficulty: Difficulty,
) -> list[Event]:
    """Put flashes at places of the crowd that are always inside the frame and, if possible, do not touch the mover."""
    side, corners = difficulty.lattice, np.array(places)
    placed = []
    for flash in flashes:
        steps = sway[flash.first : flash.last + 1]
        inside = ((corners + steps.min(axis=0) >= 0) & (corners + steps.max(axis=0) <= side - DISC)).all(axis=1)
        # The nearest to a random point: the outer places then stand for the edges of the frame.
        point = np.array([stream.between(-DISC, side) for _ in range(2)])
        nearest = np.argsort(((corners[inside] - point) ** 2).sum(axis=1), kind="stable")
        opacity = sample_opacity(stream, difficulty)
        for corner in corners[inside][nearest]:
            path = tuple((int(y) / side, int(x) / side) for y, x in corner + steps)
            moved = replace(flash, path=path, extent=DISC / side, opacity=opacity)
            if not touch(moved, mover):
                break
        placed.append(moved)
    return placed


def sample_opacity(stream: RandomStream, difficulty: Difficulty) -> int:
    return FULL - stream.below(round(FULL * difficulty.faint) + 1)


def sample_crowd(stream: RandomStream, frames: int, arranged: Arrangement, difficulty: Difficulty) -> Crowd:
    """Sample the discs of all places; where a flash appears, the disc of the crowd leaves."""
    count = len(arranged.places)
    used = _uniform(stream, 1000, count) < round(1000 * difficulty.crowd)
    churns = _uniform(stream, 1000, count) < round(1000 * difficulty.churn)
    lengths = np.where(
        churns[:, None], durations(stream, (count, frames), difficulty), _between(stream, STATIC, (count, frames))
    )
    ends = np.cumsum(lengths + _uniform(stream, _GAP, (count, frames)), axis=1)
    first = np.pad(ends[:, :-1], ((0, 0), (1, 0))) - _uniform(stream, STATIC[0], count)[:, None]
    last = np.minimum(first + lengths - 1, frames - 1)
    place, life = np.nonzero(used[:, None] & (first < frames) & (last >= 0))
    number = len(place)
    halo = _uniform(stream, len(CROWD_HALOS), number)
    blank = halo == len(CROWD_HALOS) - 1
    shape = _uniform(stream, len(SHAPES), number)
    clash = (halo == len(CROWD_HALOS) - 2) & (shape == SHAPES.index(arranged.mover.shape))
    shape = np.where(clash, (shape + 1 + _uniform(stream, len(SHAPES) - 1, number)) % len(SHAPES), shape)
    crowd = Crowd(
        first=np.maximum(first[place, life], 0),
        last=last[place, life],
        corner=np.array(arranged.places)[place],
        halo=halo,
        shape=np.where(blank, -1, shape),
        color=np.where(blank, -1, _uniform(stream, len(COLORS), number)),
        opacity=FULL - _uniform(stream, round(FULL * difficulty.faint) + 1, number),
        sway=arranged.sway,
    )
    return _make_room(crowd, arranged.flashes, difficulty)


def durations(stream: RandomStream, shape: tuple[int, ...], difficulty: Difficulty) -> np.ndarray:
    """Sample durations as those of flashes."""
    slow = _uniform(stream, 1000, shape) < round(1000 * difficulty.slow)
    return np.where(slow, _between(stream, SLOW, shape), _between(stream, SHORT, shape))


def flashes_as_crowd(flashes: Sequence[Event], sway: np.ndarray, lattice: int) -> Crowd:
    """Return flashes as discs, for painting."""
    shapes, colors = list(SHAPES), list(COLORS)
    return Crowd(
        first=np.array([flash.first for flash in flashes]),
        last=np.array([flash.last for flash in flashes]),
        corner=np.array([_corner(flash, sway, lattice) for flash in flashes]),
        halo=np.full(len(flashes), len(CROWD_HALOS) - 1),
        shape=np.array([shapes.index(flash.shape) for flash in flashes]),
        color=np.array([colors.index(flash.color) for flash in flashes]),
        opacity=np.array([flash.opacity for flash in flashes]),
        sway=sway,
    )


def _corner(flash: Event, sway: np.ndarray, lattice: int) -> np.ndarray:
    """Return the corner (y, x) of a flash without sway."""
    return np.round(np.array(flash.path[0]) * lattice).astype(np.int64) - sway[flash.first]


def _make_room(crowd: Crowd, flashes: Sequence[Event], difficulty: Difficulty) -> Crowd:
    """Shorten the stay of discs where a flash appears; those that would have no frame left are removed."""
    first, last = crowd.first.copy(), crowd.last.copy()
    for flash in flashes:
        at = _corner(flash, crowd.sway, difficulty.lattice)
        here = (np.abs(crowd.corner - at) < DISC).all(axis=1) & (first <= flash.last) & (last >= flash.first)
        before = here & (first < flash.first)
        last[before] = flash.first - 1
        first[here & ~before] = flash.last + 1
    left = first <= last
    return replace(crowd, first=first, last=last).take(left)


def _uniform(stream: RandomStream, n: int, shape: int | tuple[int, ...]) -> np.ndarray:
    """Return integers in 0..n-1 (bias below n / 2**32)."""
    count = int(np.prod(shape))
    return (stream.bytes(4 * count).view("<u4") % np.uint32(n)).astype(np.int64).reshape(shape)


def _between(stream: RandomStream, limits: tuple[int, int], shape: int | tuple[int, ...]) -> np.ndarray:
    return limits[0] + _uniform(stream, limits[1] - limits[0] + 1, shape)
