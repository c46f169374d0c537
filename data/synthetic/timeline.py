"""Times and positions of the events of a synthetic video.

All constraints are satisfied by construction, without rejection sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from framefold.data.question import Box
from framefold.data.random_stream import RandomStream

from .difficulty import Difficulty
from .render import COLORS, SHAPES

DIRECTIONS = ("left", "right", "up", "down")

REVERSED = dict(zip(DIRECTIONS, ("right", "left", "down", "up"), strict=True)) | {"": ""}

# In steps of the lattice, of which a frame has 16 (`Difficulty.lattice`) per side. Flashes and the mover are aligned to
# the lattice, so that a vision encoder with patches of two steps sees four phases of a shape instead of 64 and learns
# shapes in minutes.
LATTICE, DISC, GLYPH = 16, 5, 3

SHORT, SLOW = (1, 2), (4, 8)  # shortest and longest duration of flashes, in frames

FULL = 16  # opacity of a disc without loss of contrast

UNIQUE_SHAPES = 3  # shapes that flash exactly once, so that a question can identify the flash by its shape

MAX_COUNTED = 4

EVIDENCE_KINDS = ("flash", "mover")  # kinds of events that questions are about


@dataclass(frozen=True)
class Event:
    """A glyph that is visible in some consecutive frames.

    Attributes:
        kind: "flash" or "mover", which questions are about; all other kinds are distractors.
        shape: shape of the glyph, or "".
        color: colour of the glyph, or "".
        direction: direction of the mover, otherwise "".
        first: first frame.
        last: last frame, inclusive.
        path: upper left corners (y, x) as fractions of the frame, one per frame, or a single one if it does not move.
        extent: height and width as a fraction of the frame.
        width: width as a fraction of the frame, if it differs from the height.
        opacity: contrast of a disc with the background, in sixteenths.
    """

    kind: str
    shape: str
    color: str
    direction: str
    first: int
    last: int
    path: tuple[tuple[float, float], ...]
    extent: float
    width: float | None = None
    opacity: int = FULL

    def box(self, frame: int) -> Box:
        """Return the box of the event in a frame."""
        y, x = self.path[min(frame - self.first, len(self.path) - 1)]
        return (frame, y, x, y + self.extent, x + (self.width or self.extent))

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes in all frames in which the event is visible."""
        return tuple(self.box(frame) for frame in range(self.first, self.last + 1))

    def reversed(self, frames: int) -> Event:
        """Return the event in the reversed video of `frames` frames."""
        first, last, direction = frames - 1 - self.last, frames - 1 - self.first, REVERSED[self.direction]
        size = (self.extent, self.width, self.opacity)
        return Event(self.kind, self.shape, self.color, direction, first, last, self.path[::-1], *size)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON values; width and opacity only if they differ from their defaults."""
        values = asdict(self)
        return {name: value for name, value in values.items() if name not in _LATER or value != _LATER[name]}


_LATER = {"width": None, "opacity": FULL}


@dataclass(frozen=True)
class QuietPeriod:
    """Frames from first to end - 1, in which there are no events and the camera does not move."""

    first: int
    end: int

    def moving_time(self, frame: int) -> int:
        """Return the number of frames before this one in which the camera may move."""
        return frame - max(0, min(frame, self.end) - self.first)


def sample_events(
    stream: RandomStream, frames: int, difficulty: Difficulty
) -> tuple[list[Event], str, Event, QuietPeriod]:
    """Sample the events that questions are about.

    Returns:
        The flashes in temporal order, the colour of the flashes to count, the mover, and the quiet period.
    """
    quiet = int(frames * difficulty.quiet)
    active = frames - quiet
    mover = sample_mover(stream, active, difficulty)
    most = min(difficulty.flashes[1], (active + 1) // 3)
    count = stream.between(min(difficulty.flashes[0], most), most)
    counted, *others = [tuple(COLORS)[i] for i in stream.permutation(len(COLORS))]
    colors = _colors(stream, count, counted, others)
    flashes = _flashes(stream, colors, mover, active, difficulty)
    inside = {frame for event in (*flashes, mover) for frame in range(event.first + 1, event.last + 1)}
    free = [frame for frame in range(active + 1) if frame not in inside]
    start = stream.pick(free)
    delayed = [_delay(flash, start, quiet) for flash in flashes]
    return delayed, counted, _delay(mover, start, quiet), QuietPeriod(start, start + quiet)


def _delay(event: Event, start: int, frames: int) -> Event:
    """Delay an event by some frames if it does not happen before frame `start`."""
    return event if event.first < start else replace(event, first=event.first + frames, last=event.last + frames)


def sample_mover(stream: RandomStream, frames: int, difficulty: Difficulty) -> Event:
    """Sample the mover, which crosses the frame from near one edge to near the opposite edge in a straight line."""
    lattice = difficulty.lattice
    room = lattice - DISC
    length = stream.between(max(6, frames // 6), max(8, frames // 3)) if difficulty.slow else stream.between(6, 8)
    first = stream.below(frames - length + 1)
    direction = stream.pick(DIRECTIONS)
    lane = stream.between(1, room - 1)
    begin, end = stream.below(3), room - stream.below(3)
    track = [begin + (end - begin) * i // (length - 1) for i in range(length)]
    if direction in ("left", "up"):
        track = [room - at for at in track]
    path = [(lane, at) if direction in ("left", "right") else (at, lane) for at in track]
    fractions = tuple((y / lattice, x / lattice) for y, x in path)
    shape, color = stream.pick(SHAPES), stream.pick(tuple(COLORS))
    return Event("mover", shape, color, direction, first, first + length - 1, fractions, DISC / lattice)


def _flashes(
    stream: RandomStream, colors: Sequence[str], mover: Event, frames: int, difficulty: Difficulty
) -> list[Event]:
    """Sample the flashes; they do not overlap in time, and none of them covers the mover."""
    looks = zip(_shapes(stream, len(colors)), colors, strict=True)
    lengths = [stream.between(*SHORT) for _ in colors]
    if difficulty.slow:
        lengths = _lengthened(stream, lengths, frames, difficulty.slow)
    events = []
    for (shape, color), length, first in zip(
        looks, lengths, stream.interval_starts(lengths, frames, gap=1), strict=True
    ):
        path = (_flash_corner(stream, mover, first, first + length - 1, difficulty.lattice),)
        extent = DISC / difficulty.lattice
        events.append(Event("flash", shape, color, "", first, first + length - 1, path, extent))
    return events


def _lengthened(stream: RandomStream, lengths: Sequence[int], frames: int, slow: float) -> list[int]:
    """Make a fraction of flashes slow, as long as they all fit into the frames."""
    longer = list(lengths)
    for i in range(len(lengths)):
        length = stream.between(*SLOW) if stream.below(1000) < round(1000 * slow) else lengths[i]
        if sum(longer) - longer[i] + length + len(longer) - 1 <= frames:
            longer[i] = length
    return longer


def _shapes(stream: RandomStream, count: int) -> list[str]:
    """Sample the shapes of the flashes in temporal order.

    Three shapes appear once, two of them with exactly one flash between them; the other shapes repeat. A shape does not
    reveal when its flash happens: the first flash has one of the three unique shapes in half of the videos, as it would
    if all six shapes were equally likely, and so has the last. The flash between two is balanced in the same way.
    """
    order = [SHAPES[i] for i in stream.permutation(len(SHAPES))]
    once, others = order[:UNIQUE_SHAPES], order[UNIQUE_SHAPES:]
    pairs = [(a, c) for a in range(count - 2) for c in range(count) if c not in (a, a + 2)]
    target = (stream.below(2) == 1, stream.below(2) == 1, stream.below(4) == 0)

    def mismatches(pair: tuple[int, int]) -> int:
        a, c = pair
        slots = (a, a + 2, c)
        return sum(x != y for x, y in zip((0 in slots, count - 1 in slots, c == a + 1), target, strict=True))

    errors = list(map(mismatches, pairs))
    fewest = min(errors)  # 0 unless there are few flashes
    a, c = stream.pick([pair for pair, number in zip(pairs, errors, strict=True) if number == fewest])
    shapes = [stream.pick(others) for _ in range(count)]
    for slot, shape in zip((a, a + 2, c), once, strict=True):
        shapes[slot] = shape
    return shapes


def _colors(stream: RandomStream, count: int, counted: str, others: Sequence[str]) -> list[str]:
    """Sample the colours in temporal order; the counted colour appears one to four times."""
    number = min(count, stream.between(1, MAX_COUNTED))
    return [counted if slot < number else stream.pick(others) for slot in stream.permutation(count)]


def _flash_corner(stream: RandomStream, mover: Event, first: int, last: int, lattice: int) -> tuple[float, float]:
    """Return the first corner of a shuffled, jittered grid at which a disc does not touch the mover."""
    step = (lattice - DISC) // 3
    jitter = stream.below(step), stream.below(step)
    busy = [mover.box(frame) for frame in range(max(first, mover.first), min(last, mover.last) + 1)]
    for cell in stream.permutation(16):
        y, x = ((start + at * step) / lattice for start, at in zip(jitter, divmod(cell, 4), strict=True))
        if all(abs(y - box[1]) >= mover.extent or abs(x - box[2]) >= mover.extent for box in busy):
            break
    return y, x


def sample_distractors(stream: RandomStream, frames: int, difficulty: Difficulty, quiet: QuietPeriod) -> list[Event]:
    """Sample the distractors that last one frame: glyphs, then discs without a glyph, then glyphs on other discs."""
    distractors, lattice = [], difficulty.lattice
    kinds = (
        ("blink", difficulty.clutter, GLYPH),
        ("flare", difficulty.flares, DISC),
        ("decoy", difficulty.decoys, DISC),
    )
    for kind, rate, extent in kinds:
        room, per_mille = lattice - extent + 1, round(rate * 1000)
        for frame in range(frames):
            number = (per_mille + stream.below(1000)) // 1000
            for _ in range(0 if quiet.first <= frame < quiet.end else number):
                shape = "" if kind == "flare" else stream.pick(SHAPES)
                color = "" if kind == "flare" else stream.pick(tuple(COLORS))
                corner = (stream.below(room) / lattice, stream.below(room) / lattice)
                distractors.append(Event(kind, shape, color, "", frame, frame, (corner,), extent / lattice))
    return distractors


def touch(one: Event, other: Event) -> bool:
    """Return whether two events overlap in any frame."""
    frames = range(max(one.first, other.first), min(one.last, other.last) + 1)
    return any(
        a[1] < b[3] and b[1] < a[3] and a[2] < b[4] and b[2] < a[4]
        for a, b in ((one.box(frame), other.box(frame)) for frame in frames)
    )


def overlapping(events: Sequence[Event], first: int, last: int) -> list[Event]:
    """Return the events that are visible in any of the frames first to last."""
    return [event for event in events if event.first <= last and event.last >= first]
