"""Questions about spliced videos: one right answer each, which the annotations give and the text alone does not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from framefold.data.question import Question
from framefold.data.random_stream import RandomStream
from framefold.data.spliced import questions as splice_questions
from framefold.data.spliced.answer_check import right_answers
from framefold.data.spliced.clips import Clip, ClipQuestion, alike, normal
from framefold.data.spliced.notes import annotate
from framefold.data.spliced.plan import ClipPool, Plan
from framefold.data.spliced.questions import TYPES, ask_about_clips
from framefold.data.spliced.row import shuffled
from framefold.data.spliced.settings import Setup
from framefold.errors import DataError

SETUP = Setup((1.0, 4.0), 2.0, (32, 32), (1.0, 60.0), 2, 18)
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so") for b in ("dar", "fel", "gim", "hon", "jub")]

Asked = list[tuple[Plan, dict[str, Any], list[Question]]]


def clip(number: int, words: int, label: str = "", length: int = 20, **more: Any) -> Clip:
    """Clip of half as many seconds as frames, whose caption has so many words."""
    draws = RandomStream(number, 77)
    caption = " ".join(draws.pick(WORDS) for _ in range(words))
    end = length / 2
    return Clip(f"c{number:05d}", f"{number}.mp4", caption, label, 0.0, end, (), "", f"s{number}", (), length, **more)


def pool_of(count: int, labels: int = 0, setup: Setup = SETUP) -> ClipPool:
    """Clips of 4 to 30 seconds and captions of 4 to 20 words; a label has half as many clips as the one before it."""
    draws, clips = RandomStream(5), []
    for number in range(count):
        rank = next((i for i in range(labels) if draws.below(2)), max(0, labels - 1))
        label = f"label {WORDS[rank]}" if labels else ""
        clips.append(clip(number, draws.between(4, 20), label, draws.between(8, 60)))
    return ClipPool(clips, "train", *setup.frames, setup.fps)


def asked(pool: ClipPool, videos: int, setup: Setup = SETUP, seed: int = 0) -> Asked:
    out = []
    for plan in pool.plans(seed, videos):
        notes = annotate(plan, setup, {})
        out.append((plan, notes, ask_about_clips(plan, notes, setup.questions)))
    return out


def options(question: Question) -> dict[str, str]:
    """Lettered options."""
    return dict(re.findall(r"^([A-Z])\. (.*)$", question.text, re.MULTILINE))


@pytest.fixture(scope="module")
def plain() -> Asked:
    return asked(pool_of(600), 400)


@pytest.fixture(scope="module")
def labelled() -> Asked:
    return asked(pool_of(600, 7), 400)


@pytest.fixture(params=["plain", "labelled"])
def videos(request: pytest.FixtureRequest) -> Asked:
    return request.getfixturevalue(request.param)


def test_no_question_that_is_made_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[tuple[list[str], str]] = []

    def noted(question: Question, notes: dict[str, Any]) -> list[str]:
        found = right_answers(question, notes)
        answers.append((found, question.answer))
        return found

    monkeypatch.setattr(splice_questions, "right_answers", noted)
    for labels in (0, 7):
        made = asked(pool_of(300, labels), 60)
        assert Counter(q.type for _, _, questions in made for q in questions).keys() == set(TYPES) - {"clip_qa"}
    assert len(answers) > 60 * 2 * 8
    assert all(found == [answer] for found, answer in answers)


def test_every_answer_is_what_the_row_of_clips_says(videos: Asked) -> None:
    """Against the plan, without the words of the checker."""
    for plan, notes, questions in videos:
        captions = [one.caption for one in plan.clips]
        for question in questions:
            chosen = options(question).get(question.answer, "")
            quoted = re.findall(r'"(.*)"', question.text)
            assert question.answer in question.choices
            if question.type == "caption_order":
                items = dict(re.findall(r"^(\(\d\)) (.*)$", question.text, re.MULTILINE))
                places = [captions.index(items[item]) for item in chosen.split(", ")]
                assert places == sorted(places) and len(set(places)) == len(items) >= 3
            elif question.type == "before_after":
                step = 1 if "right after" in question.text else -1
                assert captions[captions.index(quoted[0]) + step] == chosen
                assert all(option in captions for option in options(question).values())
            elif question.type == "count_clip":
                texts = [one.label for one in plan.clips] if plan.counted else captions
                assert texts.count(quoted[0]) == int(question.answer)
            elif question.type == "needle":
                assert [option in captions for option in options(question).values()].count(True) == 1
                assert chosen in captions
            elif question.type == "moment":
                span = notes["captions"][captions.index(quoted[0])]["frames"]
                third = ("first", "middle", "last").index(chosen.split()[2])
                bounds = [len(notes["times"]) * at / 3 for at in (third, third + 1)]
                assert bounds[0] <= span[0] < span[1] <= bounds[1]
            elif question.type == "exists":
                assert (quoted[0] in captions) == (question.answer == "yes")


def test_evidence_is_the_whole_frames_of_the_clips_concerned(videos: Asked) -> None:
    for plan, notes, questions in videos:
        for question in questions:
            assert all(box[1:] == (0.0, 0.0, 1.0, 1.0) for box in question.evidence)
            frames = {box[0] for box in question.evidence}
            assert len(frames) == len(question.evidence) and frames
            if question.answer == "no":
                assert frames == set(range(len(notes["times"])))
                continue
            shown = {one["text"] for one in notes["captions"] if set(range(*one["frames"])) & frames}
            whole = {frame for one in notes["captions"] if one["text"] in shown for frame in range(*one["frames"])}
            assert frames == whole
            named = [one.caption for one in plan.clips if one.caption in question.text]
            if question.type in ("moment", "exists"):
                assert shown == set(named)
            elif question.type == "count_clip" and plan.counted:
                assert len(shown) == int(question.answer)
            elif question.type in ("caption_order", "before_after"):
                assert shown <= set(named) and len(shown) >= 2


def test_videos_are_rows_of_whole_clips_of_the_length_asked_for(videos: Asked) -> None:
    lengths = []
    for plan, notes, _ in videos:
        times = Counter(one.id for one in plan.clips)
        lengths.append(len(notes["times"]))
        assert sum(one.length for one in plan.clips) == lengths[-1]
        assert all(count == 1 or one == plan.recurring for one, count in times.items())
        assert all(one.id != other.id for one, other in zip(plan.clips, plan.clips[1:], strict=False))
        assert len(times) >= 3
    assert 120 <= min(lengths) < 170 and 430 < max(lengths) <= 480


def test_what_is_absent_is_nowhere_in_the_video(videos: Asked) -> None:
    for plan, _, _ in videos:
        assert len(plan.present) == len(plan.absent) == 3
        assert set(plan.present) <= set(plan.clips)
        for gone in plan.absent:
            assert not any(alike(gone.caption, one.caption) for one in plan.clips)
            assert not any(gone.label and gone.label == one.label for one in plan.clips)


def test_twins_are_asked_the_same_and_answer_differently(videos: Asked) -> None:
    for (_, _, even), (_, _, odd) in zip(videos[::2], videos[1::2], strict=True):
        first, second = ({q.text: q.answer for q in questions if q.type == "exists"} for questions in (even, odd))
        assert len(first) == 2 and first.keys() == second.keys()
        assert sorted(first.values()) == ["no", "yes"] and all(first[text] != second[text] for text in first)


def test_an_odd_number_of_questions_is_balanced_over_twins() -> None:
    made = asked(pool_of(300), 40, replace(SETUP, questions=1))
    answers = [q.answer for _, _, questions in made for q in questions if q.type == "exists"]
    assert answers == ["no", "yes"] * 20


def test_the_text_alone_tells_nothing(videos: Asked) -> None:
    letters: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    ranks: Counter[int] = Counter()
    for _, _, questions in videos:
        for question in questions:
            if question.type != "exists":
                letters[question.type, len(question.choices)][question.answer] += 1
            if question.type in ("needle", "before_after") and len(question.choices) == 4:
                order = sorted(options(question), key=lambda letter: len(options(question)[letter]))  # noqa: B023
                ranks[order.index(question.answer)] += 1
    for (_, choices), counts in [*letters.items(), (("length", 4), ranks)]:
        total = sum(counts.values())
        if total >= 200:
            expected = total / choices
            assert sum((counts[key] - expected) ** 2 / expected for key in counts) < 20  # p < 2e-4 for 3 degrees
            assert len(counts) == choices
    assert {kind for (kind, _), counts in letters.items() if counts.total() >= 200} == set(TYPES) - {
        "exists",
        "clip_qa",
    }


def test_no_label_of_a_needle_stands_out(labelled: Asked) -> None:
    labels = {one.caption: one.label for plan, _, _ in labelled for one in plan.clips}
    for _, _, questions in labelled:
        for question in questions:
            if question.type == "needle":
                found = [labels[option] for option in options(question).values()]
                assert len(set(found)) == len(found) == 4
    asked_of = [plan.counted for plan, _, _ in labelled]
    assert len(set(asked_of)) >= 4 and all(asked_of)


def test_captions_that_are_alike_make_no_question_that_has_two_answers() -> None:
    texts = ["A dog runs.", "a dog  runs", "a dog runs in the park", "a cat sleeps", "a boat turns", "A cat, sleeps!"]
    clips = [replace(clip(number, 1), caption=texts[number % 6]) for number in range(60)]
    made = asked(ClipPool(clips, "train", *SETUP.frames, SETUP.fps), 60)
    kinds = Counter(question.type for _, _, questions in made for question in questions)
    assert kinds["exists"] and kinds["needle"]
    for plan, notes, questions in made:
        for question in questions:
            assert right_answers(question, notes) == [question.answer]
            asked_about = re.findall(r'"(.*)"', question.text)
            if question.type in ("before_after", "moment"):
                assert sum(alike(asked_about[0], one.caption) for one in plan.clips) == 1
            if question.type == "exists" and question.answer == "no":
                assert not any(alike(asked_about[0], one.caption) for one in plan.clips)
            if options(question):
                assert len({normal(option) for option in options(question).values()}) == len(options(question))


def test_the_checker_sees_every_kind_of_wrong_answer(videos: Asked) -> None:
    """What another caption in the video, another order or another number makes of a question."""
    for _, notes, questions in videos[:60]:
        turned = {**notes, "captions": notes["captions"][::-1]}
        doubled = {**notes, "captions": [*notes["captions"], *notes["captions"]]}
        emptied = {**notes, "captions": []}
        for question in questions:
            assert right_answers(question, notes) == [question.answer]
            if question.type in ("caption_order", "before_after"):
                assert right_answers(question, turned) != [question.answer]
                assert right_answers(question, doubled) == []
            if question.type == "count_clip":
                assert right_answers(question, doubled) == [str(2 * int(question.answer))]
            if question.type in ("needle", "moment"):
                assert right_answers(question, emptied) == []
            if question.type == "exists":
                assert right_answers(question, emptied) == ["no"]


def test_a_clips_own_questions_come_with_shifted_times() -> None:
    own = (
        ClipQuestion("what colour is it?", "red", ("red", "blue", "green"), 3.2, 4.2),
        ClipQuestion("who is there?", "a dog", (), None, None),
    )
    clips = [replace(clip(number, 5), start=2.0, end=12.0, questions=own) for number in range(40)]
    for plan, notes, questions in asked(ClipPool(clips, "train", *SETUP.frames, SETUP.fps), 10):
        asked_of = [question for question in questions if question.type == "clip_qa"]
        assert len(asked_of) == 2 * len({one.id for one in plan.clips})
        spans = {tuple(caption["seconds"]): caption for caption in notes["captions"]}
        for question in asked_of:
            start, end, text = re.match(r"From (.*) to (.*) seconds of the video: (.*)", question.text).groups()
            caption = spans[float(start), float(end)]
            frames = [box[0] for box in question.evidence]
            first = caption["frames"][0]
            if text == own[0].text:
                assert options(question)[question.answer] == "red" and len(question.choices) == 3
                # The clip begins at second 2; its frames are taken at 2.25, 2.75 and so on; 3.2 to 4.2 is asked about.
                assert frames == [first + 2, first + 3]
                assert caption["qa"][0]["seconds"] == [(first + 2) / 2, (first + 4) / 2]
            else:
                assert (question.answer, question.choices) == ("a dog", ())
                assert frames == list(range(*caption["frames"]))


def test_counting_needs_no_labels_and_counts_evenly(videos: Asked) -> None:
    counts = Counter(q.answer for _, _, questions in videos for q in questions if q.type == "count_clip")
    assert counts.total() == 400 and set(counts) == {"1", "2", "3", "4"} and min(counts.values()) > 70
    for plan, _, questions in videos:
        (question,) = (q for q in questions if q.type == "count_clip")
        if not plan.counted:
            assert [one.id for one in plan.clips].count(plan.recurring) == int(question.answer)


def test_what_may_show_the_counted_label_unseen_is_not_in_the_video() -> None:
    labels = [f"a {word}" for word in WORDS[:5]]
    clips = [clip(number, 8, labels[number % 5] if number % 3 else "") for number in range(150)]
    told = [replace(one, caption=f"{one.caption} {labels[(number + 1) % 5]}") for number, one in enumerate(clips[:60])]
    plans = ClipPool([*told, *clips[60:]], "train", *SETUP.frames, SETUP.fps).plans(0, 40)
    counting = [plan for plan in plans if plan.counted]
    assert len(counting) > 20
    for plan in counting:
        others = [one for one in plan.clips if normal(one.label) != plan.counted]
        assert all(one.label and not alike(plan.counted, one.caption) for one in others)


@pytest.mark.parametrize("labels", [1, 2, 3, 5])
def test_with_few_labels_whatever_can_be_asked_is_asked(labels: int) -> None:
    made = asked(pool_of(200, labels), 40)
    kinds = Counter(question.type for _, _, questions in made for question in questions)
    assert kinds["exists"] >= 40 and kinds["count_clip"] >= 20, kinds
    for _, notes, questions in made:
        assert all(right_answers(question, notes) == [question.answer] for question in questions)


def test_a_small_pool_still_makes_videos_and_too_small_a_one_says_what_it_has() -> None:
    setup = replace(SETUP, minutes=(0.5, 1.0))
    few = [clip(number, 6) for number in range(4)]  # 40 seconds
    for plan, notes, questions in asked(ClipPool(few, "val", *setup.frames, setup.fps), 8, setup):
        assert 60 <= len(notes["times"]) <= 120 and questions and plan.key[1] == "val"
    for clips, wanted in ((few[:2], setup), (few, SETUP), ([], SETUP)):
        low, high = (f"{minutes * 60:g}" for minutes in wanted.minutes)
        have = f"the {len(clips)} usable clips of split test have {len(clips) * 10} seconds in all"
        with pytest.raises(DataError, match=f"{have}.*{low} to {high} seconds"):
            ClipPool(clips, "test", *wanted.frames, wanted.fps)
    exact = replace(SETUP, minutes=(1.05, 1.05))  # 10-second clips never make 63 seconds
    with pytest.raises(DataError, match="bring more clips, or a wider range of --minutes"):
        ClipPool([clip(number, 6) for number in range(60)], "test", *exact.frames, exact.fps).plans(0, 1)


def test_parts_of_a_file_that_overlap_never_meet() -> None:
    clips = [
        replace(clip(number, 6), source=f"s{number // 4}", start=3.0 * (number % 4), end=3.0 * (number % 4) + 10)
        for number in range(200)
    ]
    for plan in ClipPool(clips, "train", *SETUP.frames, SETUP.fps).plans(0, 40):
        some = [*{one.id: one for one in plan.clips}.values(), *plan.absent]
        for place, one in enumerate(some):
            for other in some[:place]:
                assert one.source != other.source or one.end <= other.start or other.end <= one.start


def test_plans_depend_on_seed_and_number_alone() -> None:
    pool = pool_of(100)
    assert pool.plans(3, 7) == pool.plans(3, 12)[:7]
    assert pool.plans(3, 2) != pool.plans(4, 2)


def test_a_drawn_order_is_every_clip_once_and_uniform() -> None:
    clips = [clip(number, 3) for number in range(4)]
    assert sorted(one.id for one in shuffled(RandomStream(1), clips)) == [one.id for one in clips]
    firsts = Counter(tuple(one.id for one in shuffled(RandomStream(seed, 9), clips)) for seed in range(2400))
    assert len(firsts) == 24 and np.std(list(firsts.values())) < 15  # 10 expected
