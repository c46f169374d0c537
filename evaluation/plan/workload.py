"""What a training step works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["bf16-mixed", "32-true"]


@dataclass(frozen=True)
class Workload:
    """One step of one GPU.

    Attributes:
        frames: of a video, as the host encodes them.
        height: of the frames in pixels, after the processor's resizing.
        width: as ``height``.
        batch: videos per step.
        questions: per video.
        question_tokens: of each question, with the text after the video.
        answer_tokens: of each answer.
        prompt_tokens: of the text before the video.
        features: the training reads features, so the vision encoder does not run.
        precision: of the trainer.
        vision_chunk: number of frames that the vision encoder takes at once; None for all.
    """

    frames: int
    height: int
    width: int
    batch: int = 1
    questions: int = 1
    question_tokens: int = 32
    answer_tokens: int = 8
    prompt_tokens: int = 16
    features: bool = False
    precision: Precision = "bf16-mixed"
    vision_chunk: int | None = None
