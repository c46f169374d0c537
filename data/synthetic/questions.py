"""Questions about synthetic videos: types, vocabulary, and their derivation from scenes and events.

The types follow published benchmarks; no data is copied. Needle, order and count follow VNBench / VideoNIAH (arXiv
2406.09367), motion direction and conflicting twins TempCompass (2403.00476), holistic attributes and counts MLVU
(2406.04264), and temporal localisation follows moment retrieval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import TYPE_CHECKING

from framefold.data.question import Box, Question

from .difficulty import Difficulty
from .render import COLORS, SHAPES, TEXTURES
from .timeline import DIRECTIONS, Event

if TYPE_CHECKING:
    from framefold.data.random_stream import RandomStream

    from .scenes import Scene

NUMBERS = ("one", "two", "three", "four")

HALVES = ("first", "second")

TEXT = {
    "needle": "what color was the {a} that flashed ?",
    "order_first": "which shape flashed first ?",
    "order_last": "which shape flashed last ?",
    "order_pair": "which flashed first {a} or {b} ?",
    "between": "what flashed between {a} and {b} ?",
    "exists": "did a {color} {a} flash ?",
    "half": "in which half did the {a} flash ?",
    "count_flash": "how many {color} flashes ?",
    "count_scene": "how many scenes ?",
    "direction": "which way did the {a} move ?",
    "background": "what background at the {end} {a} or {b} ?",
    "bg_at": "what background when the {c} flashed {a} or {b} ?",
    "repeat": "what color was the {end} {a} that flashed ?",
}

CHOICES: dict[str, tuple[str, ...]] = {
    "needle": tuple(COLORS),
    "order_first": SHAPES,
    "order_last": SHAPES,
    "order_pair": (),
    "between": (),
    "exists": ("yes", "no"),
    "half": HALVES,
    "count_flash": NUMBERS,
    "count_scene": NUMBERS,
    "direction": DIRECTIONS,
    "background": (),
    "bg_at": (),
    "repeat": tuple(COLORS),
}

QUESTION_TYPES: tuple[str, ...] = tuple(TEXT)


def asked_types(difficulty: Difficulty) -> tuple[str, ...]:
    """Return the types of the questions about videos of a difficulty, in the order of QUESTION_TYPES."""
    absent = "count_flash" if difficulty.repeats else "repeat"
    return (*(kind for kind in QUESTION_TYPES if kind != absent), *((LIST,) if difficulty.lists else ()))


# Only asked if a difficulty says so; its answers are lists, and no part of the task.
LIST = "list"

HELPER_TYPES = ("shape_of_color", "count_of_color")

# A single frame of the right scene answers "background".
HEADLINE: tuple[str, ...] = tuple(kind for kind in TEXT if kind != "background")

CHANCE: dict[str, float] = {kind: 1 / (len(choices) or 2) for kind, choices in CHOICES.items()} | {
    "between": 1 / (len(SHAPES) - 2)
}

_WORDS = {word for text in TEXT.values() for word in text.split() if not word.startswith("{")}

VOCABULARY: tuple[str, ...] = tuple(
    sorted(_WORDS | {"start", "end", "yes", "no"} | {*NUMBERS, *HALVES, *DIRECTIONS, *COLORS, *SHAPES, *TEXTURES})
)


def ask_about_events(
    scenes: Sequence[Scene], events: Sequence[Event], frames: int, counted: str, stream: RandomStream
) -> tuple[Question, ...]:
    """Choose one question of every type that is possible, in the order of QUESTION_TYPES.

    Candidates are sorted by text, so twins, whose random streams are equal, get the same questions with different
    answers.
    """
    candidates: dict[str, list[Question]] = {kind: [] for kind in QUESTION_TYPES}
    for question in every_question(scenes, events, frames, counted):
        candidates[question.type].append(question)
    return tuple(stream.pick(sorted(some, key=lambda q: q.text)) for some in candidates.values() if some)


def every_question(scenes: Sequence[Scene], events: Sequence[Event], frames: int, counted: str) -> Iterator[Question]:
    """Yield all possible questions about a video.

    Types are balanced: "yes" and "no" are equally frequent, and exchanging the two choices of a question gives another
    possible question. Only flashes whose shape is unique are identified by their shape.

    Args:
        scenes: scenes of the video.
        events: events of the video.
        frames: number of frames.
        counted: colour of the flashes that may be counted; "" to ask about one of several flashes of a shape instead.
    """
    flashes = [event for event in events if event.kind == "flash"]
    times = Counter(flash.shape for flash in flashes)
    once = [flash for flash in flashes if times[flash.shape] == 1]
    yield _question("order_first", flashes[0].shape, flashes[0].boxes)
    yield _question("order_last", flashes[-1].shape, flashes[-1].boxes)
    for flash in once:
        yield from _about(flash)
    yield from _halves(once, frames)
    for one, other in permutations(once, 2):
        early = min(one, other, key=lambda flash: flash.first)
        names = (one.shape, other.shape)
        yield _question("order_pair", early.shape, one.boxes + other.boxes, names, a=one.shape, b=other.shape)
    yield from _between(flashes, once)
    yield from _counts(flashes, scenes, counted)
    if not counted:
        yield from _repeats(flashes)
    for mover in (event for event in events if event.kind == "mover"):
        yield _question("direction", mover.direction, mover.boxes, a=mover.shape)
    yield from _backgrounds(once, scenes)


def list_question(events: Sequence[Event]) -> Question:
    """Return the question for colour and shape of all flashes in their order."""
    flashes = sorted((event for event in events if event.kind == "flash"), key=lambda flash: flash.first)
    answer = " ".join(f"{flash.color} {flash.shape}" for flash in flashes)
    return Question(LIST, "what flashed when ?", answer, (), tuple(box for flash in flashes for box in flash.boxes))


def without_choices(question: Question) -> Question:
    """Remove the two choices from the text of a question; it is then harder to guess and faster to learn from."""
    if question.type not in ("background", "bg_at"):
        return question
    return replace(question, text=" ".join([*question.text.split()[:-4], "?"]), choices=TEXTURES)


def helper_questions(events: Sequence[Event]) -> Iterator[Question]:
    """Yield questions for training only: the shape of the flash of a colour, and the number of flashes of a colour.

    They teach the skills that counting flashes of a colour requires. Their answers are not balanced, so they are not
    part of the task.
    """
    flashes = [event for event in events if event.kind == "flash"]
    for color, number in Counter(flash.color for flash in flashes).items():
        same_color = [flash for flash in flashes if flash.color == color]
        boxes = tuple(box for flash in same_color for box in flash.boxes)
        if number == 1:
            yield Question(HELPER_TYPES[0], f"which shape was the {color} flash ?", same_color[0].shape, SHAPES, boxes)
        if number <= len(NUMBERS):
            count = TEXT["count_flash"].format(color=color)
            yield Question(HELPER_TYPES[1], count, NUMBERS[number - 1], NUMBERS, boxes)


def _about(flash: Event) -> Iterator[Question]:
    """Yield questions about the colour and the presence of one flash."""
    yield _question("needle", flash.color, flash.boxes, a=flash.shape)
    wrong = [color for color in COLORS if color != flash.color]
    for color in wrong:
        yield _question("exists", "no", flash.boxes, color=color, a=flash.shape)
        yield _question("exists", "yes", flash.boxes, color=flash.color, a=flash.shape)


def _halves(once: Sequence[Event], frames: int) -> Iterator[Question]:
    """Ask for the half of a flash only if both halves have a flash, so that nothing else gives the position away.

    Flashes near the middle of the video are excluded.
    """
    clear = frames // 16
    early = [flash for flash in once if flash.last < frames // 2 - clear]
    late = [flash for flash in once if flash.first >= (frames + 1) // 2 + clear]
    for pair in product(early, late):
        for half, flash in zip(HALVES, pair, strict=True):
            yield _question("half", half, flash.boxes, a=flash.shape)


def _between(flashes: Sequence[Event], once: Sequence[Event]) -> Iterator[Question]:
    """Yield questions about the single flash between two flashes."""
    for before, middle, after in zip(flashes, flashes[1:], flashes[2:], strict=False):
        if before in once and after in once:
            named = (before.shape, after.shape)
            others = tuple(shape for shape in SHAPES if shape not in named)
            evidence = before.boxes + middle.boxes + after.boxes
            for a, b in (named, named[::-1]):
                yield _question("between", middle.shape, evidence, others, a=a, b=b)


def _counts(flashes: Sequence[Event], scenes: Sequence[Scene], counted: str) -> Iterator[Question]:
    """Yield questions that count the flashes of one colour, and the scenes; a repeated scene counts again."""
    if counted:
        same_color = [flash for flash in flashes if flash.color == counted]
        boxes = (box for flash in same_color for box in flash.boxes)
        yield _question("count_flash", NUMBERS[len(same_color) - 1], boxes, color=counted)
    yield _question("count_scene", NUMBERS[len(scenes) - 1], (scene.view for scene in scenes))


def _repeats(flashes: Sequence[Event]) -> Iterator[Question]:
    """Yield questions about the first and the last flash of a shape that flashes in different colours."""
    for shape, number in Counter(flash.shape for flash in flashes).items():
        same_shape = [flash for flash in flashes if flash.shape == shape]
        first, last = same_shape[0], same_shape[-1]
        if number > 1 and first.color != last.color:
            boxes = tuple(box for flash in same_shape for box in flash.boxes)
            for end, flash in (("first", first), ("last", last)):
                yield _question("repeat", flash.color, boxes, end=end, a=shape)


def _backgrounds(once: Sequence[Event], scenes: Sequence[Scene]) -> Iterator[Question]:
    """Yield questions about which of two backgrounds was visible at one end of the video, or during a flash."""
    first, last = scenes[0], scenes[-1]
    if first.texture != last.texture:
        for names in permutations((first.texture, last.texture)):
            for end, scene in (("start", first), ("end", last)):
                yield _question("background", scene.texture, (scene.view,), names, end=end, a=names[0], b=names[1])
    located = [(flash, home) for flash in once if (home := _scene_of(flash, scenes))]
    for (flash, home), (_, other) in permutations(located, 2):
        if home.texture != other.texture:
            evidence = (*flash.boxes, _background_box(flash))
            for a, b in permutations((home.texture, other.texture)):
                yield _question("bg_at", home.texture, evidence, (a, b), c=flash.shape, a=a, b=b)


def _scene_of(flash: Event, scenes: Sequence[Scene]) -> Scene | None:
    """Return the scene during which a flash is visible, or None if it overlaps a cut or a fade."""
    ends = [*(scene.first - scene.fade for scene in scenes[1:]), scenes[-1].last + 1]
    for scene, end in zip(scenes, ends, strict=True):
        if scene.first + scene.fade <= flash.first and flash.last < end:
            return scene
    return None


def _background_box(flash: Event) -> Box:
    """Return the quarter of the first frame of a flash that is farthest from it, which shows the background."""
    frame, y0, x0, y1, x1 = flash.box(flash.first)
    y, x = (0.5 if low + high < 1 else 0.0 for low, high in ((y0, y1), (x0, x1)))
    return (frame, y, x, y + 0.5, x + 0.5)


def _question(kind: str, answer: str, evidence: Iterable[Box], choices: tuple[str, ...] = (), **names: str) -> Question:
    return Question(kind, TEXT[kind].format(**names), answer, choices or CHOICES[kind], tuple(evidence))
