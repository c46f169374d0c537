"""Measures over some of the answers, computed from their columns with intervals; older results lack them."""

from __future__ import annotations

from functools import partial

from framefold.evaluation.metrics.evidence import CENTRE, EDGE

from .formats import nats, percent, whole_percent
from .measure import ANSWERS, PLACES, POSITIONS, Measure

BINS = 10  # parts of a video

WHEN, WHERE, RECALL = "when", "where", "recall_"  # of keys such as when:3, where:edge and recall_when:3

AGAIN, AGAIN_LOSS, RESIZE_FAILS = "again", "again_loss", "resize_fails"

LOSSES = "losses"  # column of answers: the loss of every token, of answers with more than one

LOSS_AT, ADDED_LOSS_AT = "loss_at", "added_loss_at"  # of keys such as loss_at:3-4

ALL_POSITIONS = "all"

# Positions in an answer, from 1: the parts are twice as long each time, so that lists and captions fit.
ANSWER_PARTS: dict[str, tuple[int, int | None]] = {
    ALL_POSITIONS: (1, None),
    "1": (1, 1),
    "2": (2, 2),
    "3-4": (3, 4),
    "5-8": (5, 8),
    "9-16": (9, 16),
    "17-32": (17, 32),
    "33-64": (33, 64),
    "65 and more": (65, None),
}

_FRAME = {CENTRE: "in the middle half of the frame in both directions", EDGE: "outside the middle of the frame"}


def _place(key: str, title: str, description: str) -> Measure:
    return Measure(
        key,
        title=title,
        unit="%",
        description=description,
        better="higher",
        show=whole_percent,
        read=lambda readings: readings.view(key),
        needs=key.removeprefix(RECALL).partition(":")[0],
        group=PLACES,
    )


def _times(prefix: str, what: str) -> list[Measure]:
    text = f"{what.capitalize()} on questions whose evidence is within a tenth of the video around"
    return [
        _place(
            f"{prefix}{WHEN}:{part}",
            f"{what}, {100 * part // BINS}-{100 * (part + 1) // BINS} % of the video",
            f"{text} {100 * part // BINS} to {100 * (part + 1) // BINS} % of it, in percent, with its 95 % interval",
        )
        for part in range(BINS)
    ]


def _frame(prefix: str, what: str) -> list[Measure]:
    return [
        _place(
            f"{prefix}{WHERE}:{part}",
            f"{what}, {part} of the frame",
            f"{what.capitalize()} on questions whose evidence is {text}, in percent, with its 95 % interval",
        )
        for part, text in _FRAME.items()
    ]


PLACE_MEASURES = (
    *_times("", "accuracy"),
    *_frame("", "accuracy"),
    *_times(RECALL, "evidence recall"),
    *_frame(RECALL, "evidence recall"),
)


def _position(key: str, part: str, title: str, description: str) -> Measure:
    where = "all tokens" if part == ALL_POSITIONS else f"token {part}" if part in "12" else f"tokens {part}"
    return Measure(
        f"{key}:{part}",
        title=f"{title}, {where}",
        unit="nats",
        description=f"{description} at {where} of the right answer, in nats per token, mean over all questions whose "
        "answer has more than one token, with its 95 % interval",
        better="lower",
        show=partial(nats, sign=key == ADDED_LOSS_AT),
        brief=partial(nats, sign=key == ADDED_LOSS_AT, digits=2),
        read=lambda readings: readings.view(f"{key}:{part}"),
        needs=LOSSES,
        group=POSITIONS,
    )


POSITION_MEASURES = (
    *(_position(LOSS_AT, part, "loss of long answers", "Negative log-likelihood") for part in ANSWER_PARTS),
    *(
        _position(ADDED_LOSS_AT, part, "loss added to all tokens", "Negative log-likelihood minus that with all tokens")
        for part in ANSWER_PARTS
    ),
)

ANSWER_MEASURES = (
    Measure(
        AGAIN,
        title="accuracy, asked again",
        unit="%",
        description="Accuracy in percent when a video was compressed for another question about it, mean over question "
        "types, with its 95 % interval; only of methods that read the question",
        better="higher",
        show=percent,
        read=lambda readings: readings.view(AGAIN),
        needs=AGAIN,
        group=ANSWERS,
    ),
    Measure(
        AGAIN_LOSS,
        title="asked again minus asked first",
        unit="points",
        description="Accuracy when a video was compressed for another question about it, minus that when it was "
        "compressed for the question asked, in points, with the 95 % interval of the difference",
        better="higher",
        show=partial(percent, sign=True),
        read=lambda readings: readings.view(AGAIN_LOSS),
        needs=AGAIN,
        group=ANSWERS,
    ),
    Measure(
        RESIZE_FAILS,
        title="accuracy where resize fails",
        unit="%",
        description="Accuracy in percent on the questions that smaller frames with the same number of tokens do not "
        "answer, over questions of all types, with its 95 % interval",
        better="higher",
        show=percent,
        read=lambda readings: readings.view(RESIZE_FAILS),
        group=ANSWERS,
    ),
    *PLACE_MEASURES,
    *POSITION_MEASURES,
)
