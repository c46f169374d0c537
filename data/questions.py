"""The questions of the synthetic task: types, words, and how each is read off what happened.

The types follow recognised ones (built anew, no data copied): needle, order and count after VNBench / VideoNIAH
(arXiv 2406.09367), motion direction after TempCompass (2403.00476), holistic attributes and counts after MLVU
(2406.04264).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from .render import COLORS, SHAPES, TEXTURES

if TYPE_CHECKING:
    from .draws import Draws
    from .synthetic import Event, Scene

Box = tuple[int, float, float, float, float]

NUMBERS = ("one", "two", "three", "four")
DIRECTIONS = ("left", "right", "up", "down")
TEXT = {
    "needle": "what color was the {a} that flashed ?",
    "order_first": "which shape flashed first ?",
    "order_last": "which shape flashed last ?",
    "order_pair": "which flashed first {a} or {b} ?",
    "count_flash": "how many flashes ?",
    "count_scene": "how many scenes ?",
    "direction": "which way did the {a} move ?",
    "background": "what background at the {a} ?",
    "bg_at": "what background when the {a} flashed ?",
}
CHOICES: dict[str, tuple[str, ...]] = {
    "needle": tuple(COLORS),
    "order_first": SHAPES,
    "order_last": SHAPES,
    "order_pair": (),
    "count_flash": NUMBERS,
    "count_scene": NUMBERS,
    "direction": DIRECTIONS,
    "background": TEXTURES,
    "bg_at": TEXTURES,
}
QUESTION_TYPES: tuple[str, ...] = tuple(TEXT)
CHANCE: dict[str, float] = {kind: 1 / (len(choices) or 2) for kind, choices in CHOICES.items()}
_WORDS = {word for text in TEXT.values() for word in text.split() if not word.startswith("{")}
VOCABULARY: tuple[str, ...] = tuple(
    sorted(_WORDS | {"start", "end"} | set(NUMBERS) | set(DIRECTIONS) | set(COLORS) | set(SHAPES) | set(TEXTURES))
)


@dataclass(frozen=True)
class Question:
    """One question with its single-word answer.

    evidence: boxes (frame, y0, x0, y1, x1) in fractions of the frame; seeing only these is enough to answer.
    """

    type: str
    text: str
    answer: str
    choices: tuple[str, ...]
    evidence: tuple[Box, ...]


def ask(scenes: Sequence[Scene], events: Sequence[Event], draws: Draws) -> tuple[Question, ...]:
    """One question of every type that the video can carry, in the order of QUESTION_TYPES.

    Order questions need two flashes; bg_at needs a flash that no cut runs through.
    """
    askable: dict[str, list[Question]] = {}
    for question in every_question(scenes, events):
        askable.setdefault(question.type, []).append(question)
    return tuple(draws.pick(askable[kind]) for kind in QUESTION_TYPES if kind in askable)


def every_question(scenes: Sequence[Scene], events: Sequence[Event]) -> Iterator[Question]:
    """All questions that can be asked about a video."""
    flashes = [event for event in events if event.kind == "flash"]
    mover = next(event for event in events if event.kind == "mover")
    for flash in flashes:
        yield _make("needle", flash.color, flash.boxes, a=flash.shape)
    if len(flashes) > 1:
        yield _make("order_first", flashes[0].shape, flashes[0].boxes)
        yield _make("order_last", flashes[-1].shape, flashes[-1].boxes)
    for early, late in combinations(flashes, 2):
        for named in ((early.shape, late.shape), (late.shape, early.shape)):
            yield _make("order_pair", early.shape, early.boxes + late.boxes, choices=named, a=named[0], b=named[1])
    yield _make("count_flash", NUMBERS[len(flashes) - 1], (box for flash in flashes for box in flash.boxes))
    yield _make("count_scene", NUMBERS[len(scenes) - 1], (scene.view for scene in scenes))
    yield _make("direction", mover.direction, mover.boxes, a=mover.shape)
    yield _make("background", scenes[0].texture, (scenes[0].view,), a="start")
    yield _make("background", scenes[-1].texture, (scenes[-1].view,), a="end")
    for flash in flashes:
        for scene in scenes:
            if scene.first <= flash.first and flash.last <= scene.last:
                yield _make("bg_at", scene.texture, (*flash.boxes, _beside(flash)), a=flash.shape)


def _beside(flash: Event) -> Box:
    """The quarter of the frame farthest from a flash, in its first frame: the background at that moment."""
    frame, y0, x0, y1, x1 = flash.box(flash.first)
    y, x = (0.5 if low + high < 1 else 0.0 for low, high in ((y0, y1), (x0, x1)))
    return (frame, y, x, y + 0.5, x + 0.5)


def _make(kind: str, answer: str, evidence: Iterable[Box], choices: tuple[str, ...] = (), **names: str) -> Question:
    return Question(kind, TEXT[kind].format(**names), answer, choices or CHOICES[kind], tuple(evidence))
