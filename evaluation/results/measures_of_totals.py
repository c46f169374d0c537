"""Measures of the whole way from frames to an answer, which results of earlier versions lack."""

from __future__ import annotations

from functools import partial

from .formats import flops, number
from .measure import Measure, Readings

QUESTIONS = (5, 20)  # about one video, over which its costs are shared; of one they are the totals

SINGLE = ("tower_flops", "compressor_flops", "prefill_flops")  # operations before the question

MILLISECONDS = ("tower_ms", "compressor_ms", "prefill_ms")


def _sum(readings: Readings, keys: tuple[str, ...]) -> float | None:
    values = [readings.stored(key) for key in keys]
    return None if None in values else sum(value for value in values if value is not None)


def shared(readings: Readings, parts: tuple[str, ...], answer: str, questions: int) -> float | None:
    """Return a cost per question when several are asked about a video.

    The tower runs once for the video. A method that reads the question compresses and prefills once per question, the
    others once per video.

    Args:
        readings: of a method.
        parts: keys of the costs of tower, compressor and prefill.
        answer: key of the cost of a question after the prefill.
        questions: number of questions.
    """
    tower, *once = (readings.stored(key) for key in parts)
    after, anew = readings.stored(answer), readings.stored("per_question")
    if tower is None or after is None or anew is None or None in once:
        return None
    work = sum(value for value in once if value is not None)
    return tower / questions + (work if anew else work / questions) + after


def _shared_flops(questions: int) -> Measure:
    return Measure(
        f"flops_{questions}",
        title=f"FLOPs per question, {questions} asked",
        description=f"Floating-point operations per question, from frames to answer, when {questions} "
        "questions are asked about a video: methods that read the question compress and prefill for each",
        better="lower",
        show=flops,
        read=lambda readings: shared(readings, SINGLE, "answer_flops", questions),
        needs="tower_flops",
        of_compressor=True,
        axis=True,
    )


def _shared_ms(questions: int) -> Measure:
    return Measure(
        f"ms_{questions}",
        title=f"time per question, {questions} asked",
        unit="ms",
        description=f"Milliseconds per question, from frames to the first token of the answer, when {questions} "
        "questions are asked about a video",
        better="lower",
        show=partial(number, digits=2),
        read=lambda readings: shared(readings, MILLISECONDS, "question_ms", questions),
        needs="tower_ms",
        of_compressor=True,
        axis=True,
    )


TOTAL_MEASURES = (
    Measure(
        "total_flops",
        title="FLOPs of everything",
        description="Floating-point operations of tower, compressor, prefill and the answer to one question; those of "
        "the tower are for the frames that the method needs",
        better="lower",
        show=flops,
        read=lambda readings: _sum(readings, (*SINGLE, "answer_flops")),
        reference="full_total_flops",
        needs="tower_flops",
        of_compressor=True,
        hint=True,
        axis=True,
        table="cost",
        column=9,
    ),
    Measure(
        "first_token_ms",
        title="time to first token",
        unit="ms",
        description="Milliseconds from the frames to the first token of the answer: tower, compressor, prefill and "
        "question",
        better="lower",
        show=partial(number, digits=2),
        read=lambda readings: _sum(readings, (*MILLISECONDS, "question_ms")),
        needs="tower_ms",
        of_compressor=True,
        hint=True,
        axis=True,
        table="cost",
        column=9,
    ),
    *map(_shared_flops, QUESTIONS),
    *map(_shared_ms, QUESTIONS),
)
