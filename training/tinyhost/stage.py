"""Stages of the training of the tinyhost."""

from __future__ import annotations

from dataclasses import dataclass

from framefold.data.synthetic.difficulty import Difficulty

from .token_views import TokenView


@dataclass
class Stage:
    """One stage of the training.

    Attributes:
        name: of its logs and resume points.
        kind: "vision" (tower and projector on single frames) or "language" (language model on videos, tower frozen).
        steps: optimizer steps.
        lr: peak learning rate.
        warmup: steps over which the rate rises; then it falls linearly.
        final: last learning rate, as a fraction of the peak.
        batch: frames per step (vision).
        source: "drawn" (frames in the style of videos with many glyphs) or "videos" (frames of videos) (vision).
        even_length: weight of a penalty on differences between tokens in length and in distance from the mean token
            (vision).
        appearance: weight of the reconstruction of a token's pixels, as a coarse picture (vision).
        summary: weight of the task of the tower's pooling head: the shares of the shapes and colours in a frame. It
            makes the head attend to glyphs (vision).
        emphasis: number of times that a flash counts in this task (vision).
        tokens: approximate number of tokens per step, which determines the number of videos (language).
        frames: shortest and longest video (language).
        mixes: what the language model sees of a video; each step selects one at random (language).
        types: question types to ask about; by default all.
        questions: maximum number of questions per video (language).
        even_types: whether each question type has the same weight in the loss of a step, instead of each question; a
            video has one question about the direction, and dozens about flashes (language).
        bare: fraction of the questions with two named choices that are asked without naming them (language).
        difficulty: presets or settings of the videos; each step selects one at random (language), or each video does
            (vision).
    """

    name: str
    kind: str
    steps: int
    lr: float = 2e-3
    warmup: int = 30
    final: float = 0.1
    batch: int = 96
    source: str = "drawn"
    even_length: float = 0.0
    appearance: float = 0.0
    summary: float = 0.0
    emphasis: float = 1.0
    tokens: int = 4096
    frames: tuple[int, int] = (16, 24)
    mixes: tuple[TokenView, ...] = ()
    types: tuple[str, ...] = ()
    questions: int = 16
    even_types: bool = False
    bare: float = 0.0
    difficulty: tuple[str | Difficulty, ...] = ("hard",)
