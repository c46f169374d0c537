"""What ``framefold answer`` returns and prints."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from framefold.data.video.frame_reader import Sample

ALL = "all tokens"


@dataclass(frozen=True)
class AnswerRow:
    """One line of the table: what one way to answer took.

    Attributes:
        name: the compressor and its budget, or "all tokens".
        text: the answer.
        visual: visual tokens that the language model saw.
        prompt: tokens of the whole prompt that it saw.
        prefill: seconds until the first new token: vision encoder, compressor and prompt.
        decode: seconds for each further token; None if there is none.
        memory: peak bytes needed beside the loaded model, see
            :func:`~framefold.evaluation.metrics.timing.peak_memory`.
    """

    name: str
    text: str
    visual: int
    prompt: int
    prefill: float
    decode: float | None
    memory: int


@dataclass(frozen=True)
class Answer:
    """What :func:`answer` returns: the answer, what it took, and, after ``compare``, the same with all tokens."""

    text: str
    compressed: AnswerRow
    full: AnswerRow | None
    visual: int  # tokens of the video before compression


def answer_report(result: Answer, sample: Sample, repeats: int, device: torch.device) -> str:
    """What ``framefold answer`` prints: the answers and a table."""
    rows = [row for row in (result.compressed, result.full) if row is not None]
    width = max(len(row.name) for row in rows)
    head = f"{'':<{width}}  visual tokens  prompt     prefill  decode/token  peak memory"
    lines = [
        f"{row.name:<{width}}  {row.visual:>13}  {row.prompt:>6}  {_ms(row.prefill):>10}  {_ms(row.decode):>12}"
        f"  {row.memory / 2**20:>7.1f} MiB"
        for row in rows
    ]
    answers = [result.text] if result.full is None else [f"{row.name:<{width}}  {row.text}" for row in rows]
    memory = "allocated on the GPU" if device.type == "cuda" else "growth of the process"
    count = len(sample.times)
    frames = f"all {count}" if count == sample.total else f"{count} of {sample.total}"
    taken = f"{frames} frames, {sample.duration:.1f} s, {result.visual} visual tokens"
    return "\n".join(
        [
            *answers,
            "",
            head,
            *lines,
            "",
            f"{taken}; times: median of {repeats} after a warm-up; memory: {memory} beside the loaded model",
        ]
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.1f} ms"
