"""Questions about a spliced video, derived from the captions of its clips.

A choice is answered with its letter. The text of a question does not reveal its answer:

- Correct options are equally frequent at every position.
- One of two twins shows what the other does not, and both get the question, so every caption is present as often as
  absent.
- Wrong options of order, before and after are captions of the same video.

No question is asked that would have two answers because captions are similar (see :func:`.clips.similar_captions`).
"""

from __future__ import annotations

import functools
import string
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, permutations
from typing import Any

from framefold.data.question import Box, Question
from framefold.data.random_stream import RandomStream
from framefold.data.splits import SPLITS

from .answer_check import correct_answers
from .clips import normalize_caption, similar_captions
from .plan import MAX_COUNTED, VideoPlan

LETTERS = string.ascii_uppercase

TYPES = ("caption_order", "before_after", "count_clip", "needle", "moment", "exists", "clip_qa")

PARTS = ("in the first third", "in the middle third", "in the last third")

NUMBERS = tuple(str(number) for number in range(1, MAX_COUNTED + 1))

TEXT = {
    "caption_order": "Put in the order in which they happen in the video:",
    "before_after": 'What happens in the video right {where} this: "{caption}"?',
    "count_label": 'How many clips of the video show this: "{caption}"?',
    "count_times": 'How many times does this come in the video: "{caption}"?',
    "needle": "Which of these happens in the video?",
    "moment": 'When does this happen in the video: "{caption}"?',
    "exists": 'Does this happen in the video: "{caption}"?',
    "clip_qa": "From {start:g} to {end:g} seconds of the video: {question}",
}

_QUESTIONS = 12  # part of the random key


def ask_about_clips(plan: VideoPlan, metadata: dict[str, Any], max_per_type: int) -> list[Question]:
    """Return questions about a planned video; those from annotations of clips are last.

    Args:
        plan: clips of the video.
        metadata: json of the video (see :func:`.metadata.build_metadata`).
        max_per_type: largest number of questions of each type; questions from annotations are not limited.

    Returns:
        The questions to which the metadata gives exactly one answer, the intended one.
    """
    maker = _QuestionMaker(plan, metadata)
    questions = [
        islice(maker.orders(), max_per_type),
        islice(maker.neighbours(), max_per_type),
        islice(maker.counts(), max_per_type),
        islice(maker.needles(), max_per_type),
        islice(maker.moments(), max_per_type),
        maker.existence(max_per_type),
        maker.clip_questions(),
    ]
    return [question for question in chain(*questions) if correct_answers(question, metadata) == [question.answer]]


class _QuestionMaker:
    """Generates questions of each type in a random order."""

    def __init__(self, plan: VideoPlan, metadata: dict[str, Any]) -> None:
        self.plan, self.captions = plan, metadata["captions"]
        seed, split, index = plan.key
        self.stream = RandomStream(seed, SPLITS[split], index, _QUESTIONS)
        self.index, self.frames = index, len(metadata["times"])

    @functools.cached_property
    def distinct(self) -> list[int]:
        """Positions of the captions that are similar to no other caption of the video."""
        texts = [caption["text"] for caption in self.captions]
        return [
            position
            for position, text in enumerate(texts)
            if not any(similar_captions(text, other) for i, other in enumerate(texts) if i != position)
        ]

    def orders(self) -> Iterator[Question]:
        """Yield questions that ask to order three or four captions."""
        positions = self._shuffle(self.distinct)
        size = min(4, len(positions))
        for first in range(0, len(positions) - size + 1, size) if size >= 3 else ():
            chosen = positions[first : first + size]
            items = [f"({number}) {self._text(position)}" for number, position in enumerate(chosen, start=1)]
            correct = tuple(chosen.index(position) + 1 for position in sorted(chosen))
            wrong = [order for order in permutations(range(1, size + 1)) if order != correct]
            orders = [", ".join(f"({number})" for number in order) for order in (correct, *self._shuffle(wrong)[:3])]
            yield self._choice("caption_order", [TEXT["caption_order"], *items], orders, self._boxes(chosen))

    def neighbours(self) -> Iterator[Question]:
        """Yield questions about the clip right before or after a clip; the other neighbour is a wrong option."""
        for position in self._shuffle(self.distinct):
            step = 1 if self.stream.below(2) else -1
            correct, other = position + step, position - step
            wrong = self._shuffle([i for i in self.distinct if i not in (position, correct, other)])
            wrong = [*([other] if other in self.distinct else []), *wrong][:3]
            if correct not in self.distinct or not wrong:
                continue
            where = "after" if step == 1 else "before"
            head = TEXT["before_after"].format(where=where, caption=self._text(position))
            options = [self._text(i) for i in (correct, *wrong)]
            yield self._choice("before_after", [head], options, self._boxes([position, correct]))

    def counts(self) -> Iterator[Question]:
        """Yield the question how many clips have the counted label, or how often the recurring clip is shown."""
        clips = self.plan.clips
        if self.plan.counted:
            positions = [i for i, clip in enumerate(clips) if normalize_caption(clip.label) == self.plan.counted]
            kind, text = "count_label", clips[positions[0]].label
        elif self.plan.recurring:
            positions = [i for i, clip in enumerate(clips) if clip.id == self.plan.recurring]
            kind, text = "count_times", self._text(positions[0])
        else:
            return
        answer = NUMBERS[len(positions) - 1]
        yield Question("count_clip", TEXT[kind].format(caption=text), answer, NUMBERS, tuple(self._boxes(positions)))

    def needles(self) -> Iterator[Question]:
        """Yield questions with one caption of the video among captions of its twin."""
        for clip in self._shuffle(self.plan.present):
            options = [clip.caption, *(other.caption for other in self.plan.absent)]
            boxes = self._boxes([self.plan.clips.index(clip)])
            yield self._choice("needle", [TEXT["needle"]], options, boxes)

    def moments(self) -> Iterator[Question]:
        """Yield questions about the third of the video in which a clip is shown; clips across a border are excluded."""
        thirds: list[list[int]] = [[], [], []]
        for position in self._shuffle(self.distinct):
            first, end = self.captions[position]["frames"]
            third = first * 3 // self.frames
            if end * 3 <= (third + 1) * self.frames:
                thirds[third].append(position)
        for third in self._shuffle([number for number, positions in enumerate(thirds) if positions]):
            position = thirds[third][0]
            options = [PARTS[third], *self._shuffle([part for part in PARTS if part != PARTS[third]])]
            head = TEXT["moment"].format(caption=self._text(position))
            yield self._choice("moment", [head], options, self._boxes([position]))

    def existence(self, count: int) -> Iterator[Question]:
        """Yield questions whether a caption is in the video; twins get the same ones, with opposite answers."""
        sides = (self.plan.present, self.plan.absent) if self.index % 2 else (self.plan.absent, self.plan.present)
        all_frames = tuple(_box(frame) for frame in range(self.frames))  # the evidence of a "no"
        for clip in islice(chain(*zip(*sides, strict=True)), count):
            text = TEXT["exists"].format(caption=clip.caption)
            present = clip in self.plan.present
            boxes = tuple(self._boxes([self.plan.clips.index(clip)])) if present else all_frames
            yield Question("exists", text, "yes" if present else "no", ("yes", "no"), boxes)

    def clip_questions(self) -> Iterator[Question]:
        """Yield the questions in the annotations of clips, with the time of the clip; repeated clips only once."""
        seen = set[str]()
        for caption in self.captions:
            for own in caption["qa"] if caption["clip"] not in seen else ():
                start, end = (round(second, 2) for second in caption["seconds"])
                head = TEXT["clip_qa"].format(start=start, end=end, question=own["question"])
                boxes = [_box(frame) for frame in range(*own["frames"])]
                wrong = self._shuffle([choice for choice in own["choices"] if choice != own["answer"]])
                if wrong:
                    yield self._choice("clip_qa", [head], [own["answer"], *wrong], boxes)
                else:
                    yield Question("clip_qa", head, own["answer"], (), tuple(boxes))
            seen.add(caption["clip"])

    def _choice(self, kind: str, head: Sequence[str], options: Sequence[str], boxes: Iterable[Box]) -> Question:
        """Return a question with lettered options in random order; the first given option is the correct one."""
        order = self.stream.permutation(len(options))
        lines = [f"{LETTERS[position]}. {options[option]}" for position, option in enumerate(order)]
        letters = tuple(LETTERS[: len(options)])
        return Question(kind, "\n".join([*head, *lines]), letters[order.index(0)], letters, tuple(boxes))

    def _shuffle(self, items: Sequence[Any]) -> list[Any]:
        return [items[position] for position in self.stream.permutation(len(items))]

    def _text(self, position: int) -> str:
        return self.captions[position]["text"]

    def _boxes(self, positions: Iterable[int]) -> list[Box]:
        """Return boxes of the complete frames of the clips at some positions."""
        return [_box(frame) for position in sorted(positions) for frame in range(*self.captions[position]["frames"])]


def _box(frame: int) -> Box:
    return (frame, 0.0, 0.0, 1.0, 1.0)
