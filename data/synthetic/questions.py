"""The questions of the synthetic task: types, words, and how each is read off what happened.

The types follow recognised ones (built anew, no data copied): needle, order and count after VNBench / VideoNIAH
(arXiv 2406.09367), motion direction and conflicting twins after TempCompass (2403.00476), holistic attributes and
counts after MLVU (2406.04264), temporal localisation as in moment retrieval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import TYPE_CHECKING

from framefold.data.question import Box

from .render import COLORS, SHAPES, TEXTURES
from .timeline import DIRECTIONS, Event

if TYPE_CHECKING:
    from framefold.data.random_stream import RandomStream

    from .scenes import Scene
from framefold.data.question import Question

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
}

QUESTION_TYPES: tuple[str, ...] = tuple(TEXT)

HELPERS = ("shape_of_color", "count_of_color")

HEADLINE: tuple[str, ...] = tuple(kind for kind in TEXT if kind != "background")  # any frame of a scene answers that

CHANCE: dict[str, float] = {kind: 1 / (len(choices) or 2) for kind, choices in CHOICES.items()} | {
    "between": 1 / (len(SHAPES) - 2)
}

_WORDS = {word for text in TEXT.values() for word in text.split() if not word.startswith("{")}

VOCABULARY: tuple[str, ...] = tuple(
    sorted(_WORDS | {"start", "end", "yes", "no"} | {*NUMBERS, *HALVES, *DIRECTIONS, *COLORS, *SHAPES, *TEXTURES})
)


def ask_about_events(
    scenes: Sequence[Scene], events: Sequence[Event], frames: int, counted: str, draws: RandomStream
) -> tuple[Question, ...]:
    """One question of every type that the video can carry, in the order of QUESTION_TYPES.

    Candidates are sorted by their text: twins, which have the same draws, are asked the same and answer differently.
    """
    askable: dict[str, list[Question]] = {kind: [] for kind in QUESTION_TYPES}
    for question in every_question(scenes, events, frames, counted):
        askable[question.type].append(question)
    return tuple(draws.pick(sorted(some, key=lambda q: q.text)) for some in askable.values() if some)


def every_question(scenes: Sequence[Scene], events: Sequence[Event], frames: int, counted: str) -> Iterator[Question]:
    """All questions that can be asked about a video of so many frames; flashes of colour `counted` may be counted.

    Types are balanced: yes and no are asked equally often, and what two choices of a question stand for could as well
    be exchanged. Only flashes of a shape that flashed once are called by their shape.
    """
    flashes = [event for event in events if event.kind == "flash"]
    times = Counter(flash.shape for flash in flashes)
    once = [flash for flash in flashes if times[flash.shape] == 1]
    yield _make("order_first", flashes[0].shape, flashes[0].boxes)
    yield _make("order_last", flashes[-1].shape, flashes[-1].boxes)
    for flash in once:
        yield from _about(flash)
    yield from _halves(once, frames)
    for one, other in permutations(once, 2):
        early = min(one, other, key=lambda flash: flash.first)
        names = (one.shape, other.shape)
        yield _make("order_pair", early.shape, one.boxes + other.boxes, names, a=one.shape, b=other.shape)
    yield from _between(flashes, once)
    yield from _counts(flashes, scenes, counted)
    for mover in (event for event in events if event.kind == "mover"):
        yield _make("direction", mover.direction, mover.boxes, a=mover.shape)
    yield from _backgrounds(once, scenes)


def without_choices(question: Question) -> Question:
    """A question that names two choices, asked without them, which is harder to guess and so quicker to learn from."""
    if question.type not in ("background", "bg_at"):
        return question
    return replace(question, text=" ".join([*question.text.split()[:-4], "?"]), choices=TEXTURES)


def helper_questions(events: Sequence[Event]) -> Iterator[Question]:
    """Questions for teaching alone: the shape of the flash of a colour, and the number of flashes of any colour.

    Whoever is to count the flashes of a colour has to find them by it first, and one question a video is slow to learn
    from. Their answers are not balanced, so they are no part of the task.
    """
    flashes = [event for event in events if event.kind == "flash"]
    for color, number in Counter(flash.color for flash in flashes).items():
        alike = [flash for flash in flashes if flash.color == color]
        boxes = tuple(box for flash in alike for box in flash.boxes)
        if number == 1:
            yield Question(HELPERS[0], f"which shape was the {color} flash ?", alike[0].shape, SHAPES, boxes)
        if number <= len(NUMBERS):
            count = TEXT["count_flash"].format(color=color)
            yield Question(HELPERS[1], count, NUMBERS[number - 1], NUMBERS, boxes)


def _about(flash: Event) -> Iterator[Question]:
    """Colour and presence of one flash."""
    yield _make("needle", flash.color, flash.boxes, a=flash.shape)
    wrong = [color for color in COLORS if color != flash.color]
    for color in wrong:
        yield _make("exists", "no", flash.boxes, color=color, a=flash.shape)
        yield _make("exists", "yes", flash.boxes, color=flash.color, a=flash.shape)


def _halves(once: Sequence[Event], frames: int) -> Iterator[Question]:
    """In which half a flash was, where another was in the other: what else tells the halves apart tells nothing then.

    Near the middle of the video it is not asked for.
    """
    clear = frames // 16
    early = [flash for flash in once if flash.last < frames // 2 - clear]
    late = [flash for flash in once if flash.first >= (frames + 1) // 2 + clear]
    for pair in product(early, late):
        for half, flash in zip(HALVES, pair, strict=True):
            yield _make("half", half, flash.boxes, a=flash.shape)


def _between(flashes: Sequence[Event], once: Sequence[Event]) -> Iterator[Question]:
    """The one flash between two."""
    for before, middle, after in zip(flashes, flashes[1:], flashes[2:], strict=False):
        if before in once and after in once:
            named = (before.shape, after.shape)
            others = tuple(shape for shape in SHAPES if shape not in named)
            evidence = before.boxes + middle.boxes + after.boxes
            for a, b in (named, named[::-1]):
                yield _make("between", middle.shape, evidence, others, a=a, b=b)


def _counts(flashes: Sequence[Event], scenes: Sequence[Scene], counted: str) -> Iterator[Question]:
    """Flashes of one colour, and scenes; a scene that returns counts again."""
    alike = [flash for flash in flashes if flash.color == counted]
    yield _make("count_flash", NUMBERS[len(alike) - 1], (box for flash in alike for box in flash.boxes), color=counted)
    yield _make("count_scene", NUMBERS[len(scenes) - 1], (scene.view for scene in scenes))


def _backgrounds(once: Sequence[Event], scenes: Sequence[Scene]) -> Iterator[Question]:
    """Which of two scenes' backgrounds was there at an end of the video, or at a flash in one of the two."""
    first, last = scenes[0], scenes[-1]
    if first.texture != last.texture:
        for names in permutations((first.texture, last.texture)):
            for end, scene in (("start", first), ("end", last)):
                yield _make("background", scene.texture, (scene.view,), names, end=end, a=names[0], b=names[1])
    homes = [(flash, home) for flash in once if (home := _home(flash, scenes))]
    for (flash, here), (_, there) in permutations(homes, 2):
        if here.texture != there.texture:
            evidence = (*flash.boxes, _beside(flash))
            for a, b in permutations((here.texture, there.texture)):
                yield _make("bg_at", here.texture, evidence, (a, b), c=flash.shape, a=a, b=b)


def _home(flash: Event, scenes: Sequence[Scene]) -> Scene | None:
    """The scene over which all of a flash is seen, no cut or fade running through it."""
    ends = [*(scene.first - scene.fade for scene in scenes[1:]), scenes[-1].last + 1]
    for scene, end in zip(scenes, ends, strict=True):
        if scene.first + scene.fade <= flash.first and flash.last < end:
            return scene
    return None


def _beside(flash: Event) -> Box:
    """The quarter of the frame farthest from a flash, in its first frame: the background at that moment."""
    frame, y0, x0, y1, x1 = flash.box(flash.first)
    y, x = (0.5 if low + high < 1 else 0.0 for low, high in ((y0, y1), (x0, x1)))
    return (frame, y, x, y + 0.5, x + 0.5)


def _make(kind: str, answer: str, evidence: Iterable[Box], choices: tuple[str, ...] = (), **names: str) -> Question:
    return Question(kind, TEXT[kind].format(**names), answer, choices or CHOICES[kind], tuple(evidence))
