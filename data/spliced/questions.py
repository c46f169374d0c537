"""Questions about a spliced video, made of the captions of its clips.

A choice is answered with its letter. What the text alone could tell was taken out:
- right choices stand at every place equally often;
- of two twins, one shows what the other does not, and both are asked: no caption is there more often than not;
- wrong answers of order, before and after are captions of the same video.
Where captions are alike (see :func:`.clips.alike`) nothing is asked that would have two answers.
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

from .answer_check import right_answers
from .clips import alike, normal
from .plan import MOST_COUNTED, Plan

LETTERS = string.ascii_uppercase

TYPES = ("caption_order", "before_after", "count_clip", "needle", "moment", "exists", "clip_qa")

PARTS = ("in the first third", "in the middle third", "in the last third")

NUMBERS = tuple(str(number) for number in range(1, MOST_COUNTED + 1))

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

_ASK = 12  # part of the RNG key


def ask_about_clips(plan: Plan, notes: dict[str, Any], most: int) -> list[Question]:
    """Questions about a planned video, those of a clip's own annotation last.

    Args:
        notes: its annotations (see :func:`.splice_notes.annotate`).
        most: of each type; of the clips' own questions all are asked.

    Returns:
        Those that the annotations answer in one way, which is theirs.
    """
    asker = _Asker(plan, notes)
    some = [
        islice(asker.orders(), most),
        islice(asker.neighbours(), most),
        islice(asker.counts(), most),
        islice(asker.needles(), most),
        islice(asker.moments(), most),
        asker.exist(most),
        asker.own(),
    ]
    return [question for question in chain(*some) if right_answers(question, notes) == [question.answer]]


class _Asker:
    """Makes questions of each type, in a drawn order."""

    def __init__(self, plan: Plan, notes: dict[str, Any]) -> None:
        self.plan, self.captions = plan, notes["captions"]
        seed, split, index = plan.key
        self.draws = RandomStream(seed, SPLITS[split], index, _ASK)
        self.index, self.frames = index, len(notes["times"])

    @functools.cached_property
    def alone(self) -> list[int]:
        """Places of the captions that no other of the video is like."""
        texts = [caption["text"] for caption in self.captions]
        return [
            place
            for place, text in enumerate(texts)
            if not any(alike(text, other) for at, other in enumerate(texts) if at != place)
        ]

    def orders(self) -> Iterator[Question]:
        """Three or four captions to put in order."""
        places = self._drawn(self.alone)
        size = min(4, len(places))
        for first in range(0, len(places) - size + 1, size) if size >= 3 else ():
            chosen = places[first : first + size]
            items = [f"({number}) {self._text(place)}" for number, place in enumerate(chosen, start=1)]
            right = tuple(chosen.index(place) + 1 for place in sorted(chosen))
            wrong = [order for order in permutations(range(1, size + 1)) if order != right]
            orders = [", ".join(f"({number})" for number in order) for order in (right, *self._drawn(wrong)[:3])]
            yield self._choice("caption_order", [TEXT["caption_order"], *items], orders, self._boxes(chosen))

    def neighbours(self) -> Iterator[Question]:
        """What comes right before or after a clip; the clip on its other side is among the wrong answers."""
        for place in self._drawn(self.alone):
            step = 1 if self.draws.below(2) else -1
            right, other = place + step, place - step
            wrong = self._drawn([at for at in self.alone if at not in (place, right, other)])
            wrong = [*([other] if other in self.alone else []), *wrong][:3]
            if right not in self.alone or not wrong:
                continue
            where = "after" if step == 1 else "before"
            head = TEXT["before_after"].format(where=where, caption=self._text(place))
            options = [self._text(at) for at in (right, *wrong)]
            yield self._choice("before_after", [head], options, self._boxes([place, right]))

    def counts(self) -> Iterator[Question]:
        """How many clips have the counted label, or how often the recurring clip comes."""
        if self.plan.counted:
            places = [at for at, clip in enumerate(self.plan.clips) if normal(clip.label) == self.plan.counted]
            kind, text = "count_label", self.plan.clips[places[0]].label
        elif self.plan.recurring:
            places = [at for at, clip in enumerate(self.plan.clips) if clip.id == self.plan.recurring]
            kind, text = "count_times", self._text(places[0])
        else:
            return
        answer = NUMBERS[len(places) - 1]
        yield Question("count_clip", TEXT[kind].format(caption=text), answer, NUMBERS, tuple(self._boxes(places)))

    def needles(self) -> Iterator[Question]:
        """One caption of the video among captions of its twin."""
        for clip in self._drawn(self.plan.present):
            options = [clip.caption, *(other.caption for other in self.plan.absent)]
            yield self._choice("needle", [TEXT["needle"]], options, self._boxes([self.plan.clips.index(clip)]))

    def moments(self) -> Iterator[Question]:
        """In which third of the video a clip lies that lies in one."""
        thirds: list[list[int]] = [[], [], []]
        for place in self._drawn(self.alone):
            first, end = self.captions[place]["frames"]
            third = first * 3 // self.frames
            if end * 3 <= (third + 1) * self.frames:
                thirds[third].append(place)
        for third in self._drawn([number for number, some in enumerate(thirds) if some]):
            place = thirds[third][0]
            options = [PARTS[third], *self._drawn([part for part in PARTS if part != PARTS[third]])]
            head = TEXT["moment"].format(caption=self._text(place))
            yield self._choice("moment", [head], options, self._boxes([place]))

    def exist(self, most: int) -> Iterator[Question]:
        """Twins are asked the same and answer differently."""
        sides = (self.plan.present, self.plan.absent) if self.index % 2 else (self.plan.absent, self.plan.present)
        everything = tuple(_box(frame) for frame in range(self.frames))  # what it takes to say no
        for clip in islice(chain(*zip(*sides, strict=True)), most):
            text = TEXT["exists"].format(caption=clip.caption)
            there = clip in self.plan.present
            boxes = tuple(self._boxes([self.plan.clips.index(clip)])) if there else everything
            yield Question("exists", text, "yes" if there else "no", ("yes", "no"), boxes)

    def own(self) -> Iterator[Question]:
        """The clips' own questions, which say where to look; of a clip that comes again, once."""
        seen = set[str]()
        for caption in self.captions:
            for own in caption["qa"] if caption["clip"] not in seen else ():
                start, end = (round(second, 2) for second in caption["seconds"])
                head = TEXT["clip_qa"].format(start=start, end=end, question=own["question"])
                boxes = [_box(frame) for frame in range(*own["frames"])]
                wrong = self._drawn([choice for choice in own["choices"] if choice != own["answer"]])
                if wrong:
                    yield self._choice("clip_qa", [head], [own["answer"], *wrong], boxes)
                else:
                    yield Question("clip_qa", head, own["answer"], (), tuple(boxes))
            seen.add(caption["clip"])

    def _choice(self, kind: str, head: Sequence[str], options: Sequence[str], boxes: Iterable[Box]) -> Question:
        """A question with lettered options, of which the first given is right; they stand in a drawn order."""
        order = self.draws.permutation(len(options))
        lines = [f"{LETTERS[at]}. {options[option]}" for at, option in enumerate(order)]
        letters = tuple(LETTERS[: len(options)])
        return Question(kind, "\n".join([*head, *lines]), letters[order.index(0)], letters, tuple(boxes))

    def _drawn(self, some: Sequence[Any]) -> list[Any]:
        return [some[place] for place in self.draws.permutation(len(some))]

    def _text(self, place: int) -> str:
        return self.captions[place]["text"]

    def _boxes(self, places: Iterable[int]) -> list[Box]:
        return [_box(frame) for place in sorted(places) for frame in range(*self.captions[place]["frames"])]


def _box(frame: int) -> Box:
    return (frame, 0.0, 0.0, 1.0, 1.0)
