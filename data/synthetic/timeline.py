"""When and where things happen in a synthetic video: its scenes and its events, before a pixel is drawn.

Everything is constructed; nothing is drawn again until it fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from framefold.data.question import Box
from framefold.data.random_stream import RandomStream

from .difficulty import Difficulty
from .render import COLORS, SHAPES

DIRECTIONS = ("left", "right", "up", "down")

REVERSED = dict(zip(DIRECTIONS, ("right", "left", "down", "up"), strict=True)) | {"": ""}

# Sixteenths of the frame. What is asked about stands on a lattice of that step: a tower of patches of two steps then
# meets four phases of a shape, not 64, and learns shapes in minutes.
LATTICE, DISC, GLYPH = 16, 5, 3

ONCE = 3  # shapes that flash exactly once: questions can call such a flash by its shape

MOST_COUNTED = 4

ASKED_ABOUT = ("flash", "mover")  # kinds of events


@dataclass(frozen=True)
class Event:
    """A glyph shown in frames first..last (inclusive).

    kind: "flash" and "mover" are what questions ask about; the other kinds are distractors.
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

    def reversed(self, frames: int) -> Event:
        """The same event in a video of so many frames that runs backwards."""
        span = {"first": frames - 1 - self.last, "last": frames - 1 - self.first}
        return replace(self, **span, path=self.path[::-1], direction=REVERSED[self.direction])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Stretch:
    """Frames first..end-1, in which nothing happens and the camera stands still."""

    first: int
    end: int

    def moving_time(self, frame: int) -> int:
        """Frames before this one in which the camera moved."""
        return frame - max(0, min(frame, self.end) - self.first)


def draw_events(draws: RandomStream, frames: int, difficulty: Difficulty) -> tuple[list[Event], str, Event, Stretch]:
    """Flashes in order of time and the colour of them to count, the mover, and the quiet stretch between them."""
    quiet = int(frames * difficulty.quiet)
    active = frames - quiet
    mover = _mover(draws, active)
    most = min(difficulty.flashes[1], (active + 1) // 3)
    count = draws.between(min(difficulty.flashes[0], most), most)
    counted, *others = [tuple(COLORS)[i] for i in draws.permutation(len(COLORS))]
    colors = _colors(draws, count, counted, others)
    flashes = _flashes(draws, colors, mover, active)
    busy = [(event.first, event.last) for event in (*flashes, mover)]
    free = [at for at in range(active + 1) if not any(first < at <= last for first, last in busy)]
    at = draws.pick(free)
    delayed = [_delayed(flash, at, quiet) for flash in flashes]
    return delayed, counted, _delayed(mover, at, quiet), Stretch(at, at + quiet)


def _delayed(event: Event, at: int, by: int) -> Event:
    return event if event.first < at else replace(event, first=event.first + by, last=event.last + by)


def _mover(draws: RandomStream, frames: int) -> Event:
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
    shape, color = draws.pick(SHAPES), draws.pick(tuple(COLORS))
    return Event("mover", shape, color, direction, first, first + length - 1, fractions, DISC / LATTICE)


def _flashes(draws: RandomStream, colors: Sequence[str], mover: Event, frames: int) -> list[Event]:
    """Flashes of one look, never two at once and never on the mover."""
    looks = zip(_shapes(draws, len(colors)), colors, strict=True)
    lengths = [draws.between(1, 2) for _ in colors]
    events = []
    for (shape, color), length, first in zip(looks, lengths, draws.starts(lengths, frames, gap=1), strict=True):
        path = (_spot(draws, mover, first, first + length - 1),)
        events.append(Event("flash", shape, color, "", first, first + length - 1, path, DISC / LATTICE))
    return events


def _shapes(draws: RandomStream, count: int) -> list[str]:
    """Shapes in order of time: three appear once, two of these with one flash between them; the rest repeat.

    No shape tells where in time its flash is: the first and the last are one of the three in half of the videos each,
    as they would be if all six shapes were equally likely there; and so for the one between.
    """
    order = [SHAPES[i] for i in draws.permutation(len(SHAPES))]
    once, others = order[:ONCE], order[ONCE:]
    pairs = [(a, c) for a in range(count - 2) for c in range(count) if c not in (a, a + 2)]
    wanted = (draws.below(2) == 1, draws.below(2) == 1, draws.below(4) == 0)

    def mismatches(pair: tuple[int, int]) -> int:
        a, c = pair
        slots = (a, a + 2, c)
        return sum(x != y for x, y in zip((0 in slots, count - 1 in slots, c == a + 1), wanted, strict=True))

    fewest = min(map(mismatches, pairs))  # 0 unless flashes are few
    a, c = draws.pick([pair for pair in pairs if mismatches(pair) == fewest])
    shapes = [draws.pick(others) for _ in range(count)]
    for slot, shape in zip((a, a + 2, c), once, strict=True):
        shapes[slot] = shape
    return shapes


def _colors(draws: RandomStream, count: int, counted: str, others: Sequence[str]) -> list[str]:
    """Colours in order of time: the one to be counted appears one to four times, the others as it comes."""
    number = min(count, draws.between(1, MOST_COUNTED))
    return [counted if slot < number else draws.pick(others) for slot in draws.permutation(count)]


def _spot(draws: RandomStream, mover: Event, first: int, last: int) -> tuple[float, float]:
    """A corner for a disc that is clear of the mover: the first clear one of a shuffled grid with a common jitter."""
    step = (LATTICE - DISC) // 3
    jitter = draws.below(step), draws.below(step)
    busy = [mover.box(frame) for frame in range(max(first, mover.first), min(last, mover.last) + 1)]
    for cell in draws.permutation(16):
        y, x = ((start + at * step) / LATTICE for start, at in zip(jitter, divmod(cell, 4), strict=True))
        if all(abs(y - box[1]) >= mover.extent or abs(x - box[2]) >= mover.extent for box in busy):
            break
    return y, x


def draw_distractors(draws: RandomStream, frames: int, difficulty: Difficulty, quiet: Stretch) -> list[Event]:
    """One-frame glyphs without a disc; painted over them, discs without a glyph, and glyphs on discs of no matter."""
    made = []
    kinds = (
        ("blink", difficulty.clutter, GLYPH),
        ("flare", difficulty.flares, DISC),
        ("decoy", difficulty.decoys, DISC),
    )
    for kind, rate, extent in kinds:
        room, per_mille = LATTICE - extent + 1, round(rate * 1000)
        for frame in range(frames):
            number = (per_mille + draws.below(1000)) // 1000
            for _ in range(0 if quiet.first <= frame < quiet.end else number):
                shape = "" if kind == "flare" else draws.pick(SHAPES)
                color = "" if kind == "flare" else draws.pick(tuple(COLORS))
                corner = (draws.below(room) / LATTICE, draws.below(room) / LATTICE)
                made.append(Event(kind, shape, color, "", frame, frame, (corner,), extent / LATTICE))
    return made


def overlapping(events: Sequence[Event], first: int, last: int) -> list[Event]:
    """Those that are seen in one of the frames first..last."""
    return [event for event in events if event.first <= last and event.last >= first]
