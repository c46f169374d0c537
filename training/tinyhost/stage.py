"""One leg of the host's training."""

from __future__ import annotations

from dataclasses import dataclass

from framefold.data.synthetic.difficulty import Difficulty

from .token_views import Mix


@dataclass
class Stage:
    """One leg of the host's training.

    kind: "vision" (tower and projector on single frames) or "language" (language model on videos, tower frozen).
    steps: optimizer steps. lr: peak, after `warmup` steps, falling linearly to `final` of it.
    batch: frames a step (vision). tokens: tokens a step, which sets the number of videos (language).
    frames: shortest and longest video. mixes: what the language model sees of a video (language).
    types: question types to ask about; all if empty. questions: how many a video, drawn from all that can be asked.
    bare: share of the questions with two named choices that are asked without naming them (language).
    difficulty: presets or settings of the videos, one drawn for each batch (language).
    """

    name: str
    kind: str
    steps: int
    lr: float = 2e-3
    warmup: int = 30
    final: float = 0.1
    batch: int = 96
    tokens: int = 4096
    frames: tuple[int, int] = (16, 24)
    mixes: tuple[Mix, ...] = ()
    types: tuple[str, ...] = ()
    questions: int = 16
    bare: float = 0.0
    difficulty: tuple[str | Difficulty, ...] = ("hard",)
