"""Questions about spliced videos: one correct answer each, which follows from the metadata but not from the text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from framefold.data.question import Question
from framefold.data.random_stream import RandomStream
from framefold.data.spliced import questions as module
from framefold.data.spliced.answer_check import correct_answers
from framefold.data.spliced.clips import Clip, ClipQuestion, normalize_caption, similar_captions
from framefold.data.spliced.metadata import build_metadata
from framefold.data.spliced.plan import ClipPool, VideoPlan
from framefold.data.spliced.questions import TYPES, ask_about_clips
from framefold.data.spliced.sequence import shuffle_lazily
from framefold.data.spliced.settings import SpliceSettings
from framefold.errors import DataError

SETTINGS = SpliceSettings((1.0, 4.0), 2.0, (32, 32), (1.0, 60.0), 2, 18)
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so") for b in ("dar", "fel", "gim", "hon", "jub")]

Videos = list[tuple[VideoPlan, dict[str, Any], list[Question]]]


def clip(number: int, words: int, label: str = "", length: int = 20, **more: Any) -> Clip:
    """Return a clip at two frames per second, with a caption of `words` words."""
    stream = RandomStream(number, 77)
    caption = " ".join(stream.pick(WORDS) for _ in range(words))
    end = length / 2
    return Clip(f"c{number:05d}", f"{number}.mp4", caption, label, 0.0, end, (), "", f"s{number}", (), length, **more)


def pool_of(count: int, labels: int = 0, settings: SpliceSettings = SETTINGS) -> ClipPool:
    """Return clips of 4 to 30 seconds with captions of 4 to 20 words; labels become rarer, each half as frequent."""
    stream, clips = RandomStream(5), []
    for number in range(count):
        rank = next((i for i in range(labels) if stream.below(2)), max(0, labels - 1))
        label = f"label {WORDS[rank]}" if labels else ""
        clips.append(clip(number, stream.between(4, 20), label, stream.between(8, 60)))
    return ClipPool(clips, "train", *settings.frames, settings.fps)


def videos_of(pool: ClipPool, videos: int, settings: SpliceSettings = SETTINGS, seed: int = 0) -> Videos:
    videos_with_questions = []
    for plan in pool.plans(seed, videos):
        metadata = build_metadata(plan, settings, {})
        videos_with_questions.append((plan, metadata, ask_about_clips(plan, metadata, settings.questions)))
    return videos_with_questions


def options(question: Question) -> dict[str, str]:
    """Return the lettered options of a question."""
    return dict(re.findall(r"^([A-Z])\. (.*)$", question.text, re.MULTILINE))


@pytest.fixture(scope="module")
def plain() -> Videos:
    return videos_of(pool_of(600), 400)


@pytest.fixture(scope="module")
def labelled() -> Videos:
    return videos_of(pool_of(600, 7), 400)


@pytest.fixture(scope="module")
def videos(plain: Videos, labelled: Videos) -> Videos:
    return plain + labelled


def test_every_generated_question_passes_the_answer_check(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[tuple[list[str], str]] = []

    def noted(question: Question, metadata: dict[str, Any]) -> list[str]:
        found = correct_answers(question, metadata)
        answers.append((found, question.answer))
        return found

    monkeypatch.setattr(module, "correct_answers", noted)
    for labels in (0, 7):
        made = videos_of(pool_of(300, labels), 60)
        assert Counter(q.type for _, _, questions in made for q in questions).keys() == set(TYPES) - {"clip_qa"}
    assert len(answers) > 60 * 2 * 8
    assert all(found == [answer] for found, answer in answers)


def test_every_answer_follows_from_the_plan(videos: Videos) -> None:
    """Independent of the answer check."""
    for plan, metadata, questions in videos:
        captions = [one.caption for one in plan.clips]
        for question in questions:
            chosen = options(question).get(question.answer, "")
            quoted = re.findall(r'"(.*)"', question.text)
            assert question.answer in question.choices
            if question.type == "caption_order":
                items = dict(re.findall(r"^(\(\d\)) (.*)$", question.text, re.MULTILINE))
                positions = [captions.index(items[item]) for item in chosen.split(", ")]
                assert positions == sorted(positions) and len(set(positions)) == len(items) >= 3
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
                span = metadata["captions"][captions.index(quoted[0])]["frames"]
                third = ("first", "middle", "last").index(chosen.split()[2])
                bounds = [len(metadata["times"]) * at / 3 for at in (third, third + 1)]
                assert bounds[0] <= span[0] < span[1] <= bounds[1]
            elif question.type == "exists":
                assert (quoted[0] in captions) == (question.answer == "yes")


def test_evidence_is_the_complete_frames_of_the_clips_concerned(videos: Videos) -> None:
    for plan, metadata, questions in videos:
        for question in questions:
            assert all(box[1:] == (0.0, 0.0, 1.0, 1.0) for box in question.evidence)
            frames = {box[0] for box in question.evidence}
            assert len(frames) == len(question.evidence) and frames
            if question.answer == "no":
                assert frames == set(range(len(metadata["times"])))
                continue
            shown = {one["text"] for one in metadata["captions"] if set(range(*one["frames"])) & frames}
            whole = {frame for one in metadata["captions"] if one["text"] in shown for frame in range(*one["frames"])}
            assert frames == whole
            named = [one.caption for one in plan.clips if one.caption in question.text]
            if question.type in ("moment", "exists"):
                assert shown == set(named)
            elif question.type == "count_clip" and plan.counted:
                assert len(shown) == int(question.answer)
            elif question.type in ("caption_order", "before_after"):
                assert shown <= set(named) and len(shown) >= 2


def test_videos_are_sequences_of_complete_clips_of_the_requested_length(plain: Videos, labelled: Videos) -> None:
    for videos in (plain, labelled):
        lengths = []
        for plan, metadata, _ in videos:
            times = Counter(one.id for one in plan.clips)
            lengths.append(len(metadata["times"]))
            assert sum(one.length for one in plan.clips) == lengths[-1]
            assert all(count == 1 or one == plan.recurring for one, count in times.items())
            assert all(one.id != other.id for one, other in zip(plan.clips, plan.clips[1:], strict=False))
            assert len(times) >= 3
        assert 120 <= min(lengths) < 170 and 430 < max(lengths) <= 480


def test_absent_clips_and_similar_ones_are_not_in_the_video(videos: Videos) -> None:
    for plan, _, _ in videos:
        assert len(plan.present) == len(plan.absent) == 3
        assert set(plan.present) <= set(plan.clips)
        for absent in plan.absent:
            assert not any(similar_captions(absent.caption, one.caption) for one in plan.clips)
            assert not any(absent.label and absent.label == one.label for one in plan.clips)


def test_twins_get_the_same_questions_with_different_answers(videos: Videos) -> None:
    for (_, _, even), (_, _, odd) in zip(videos[::2], videos[1::2], strict=True):
        first, second = ({q.text: q.answer for q in questions if q.type == "exists"} for questions in (even, odd))
        assert len(first) == 2 and first.keys() == second.keys()
        assert sorted(first.values()) == ["no", "yes"] and all(first[text] != second[text] for text in first)


def test_an_odd_number_of_questions_is_balanced_over_twins() -> None:
    made = videos_of(pool_of(300), 40, replace(SETTINGS, questions=1))
    answers = [q.answer for _, _, questions in made for q in questions if q.type == "exists"]
    assert answers == ["no", "yes"] * 20


def test_text_alone_does_not_reveal_the_answer(plain: Videos, labelled: Videos) -> None:
    for videos in (plain, labelled):
        letters: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        ranks: Counter[str] = Counter()  # of the correct option among four, by length
        for _, _, questions in videos:
            for question in questions:
                if question.type != "exists":
                    letters[question.type, len(question.choices)][question.answer] += 1
                if question.type in ("needle", "before_after") and len(question.choices) == 4:
                    lengths = {letter: len(option) for letter, option in options(question).items()}
                    ranks[str(sorted(lengths, key=lengths.__getitem__).index(question.answer))] += 1
        for (kind, choices), counts in [*letters.items(), (("length", 4), ranks)]:
            if counts.total() >= 200:
                expected = counts.total() / choices
                statistic = sum((counts[key] - expected) ** 2 / expected for key in counts)
                assert statistic < 20, (kind, choices, counts)  # p < 2e-4 for 3 degrees of freedom
                assert len(counts) == choices
        frequent = {kind for (kind, _), counts in letters.items() if counts.total() >= 200}
        assert frequent == set(TYPES) - {"exists", "clip_qa"}


def test_options_of_a_needle_have_distinct_labels(labelled: Videos) -> None:
    labels = {one.caption: one.label for plan, _, _ in labelled for one in plan.clips}
    for _, _, questions in labelled:
        for question in questions:
            if question.type == "needle":
                found = [labels[option] for option in options(question).values()]
                assert len(set(found)) == len(found) == 4
    asked_of = [plan.counted for plan, _, _ in labelled]
    assert len(set(asked_of)) >= 4 and all(asked_of)


def test_similar_captions_give_no_question_with_two_answers() -> None:
    texts = ["A dog runs.", "a dog  runs", "a dog runs in the park", "a cat sleeps", "a boat turns", "A cat, sleeps!"]
    clips = [replace(clip(number, 1), caption=texts[number % 6]) for number in range(60)]
    made = videos_of(ClipPool(clips, "train", *SETTINGS.frames, SETTINGS.fps), 60)
    kinds = Counter(question.type for _, _, questions in made for question in questions)
    assert kinds["exists"] and kinds["needle"]
    for plan, metadata, questions in made:
        for question in questions:
            assert correct_answers(question, metadata) == [question.answer]
            asked_about = re.findall(r'"(.*)"', question.text)
            if question.type in ("before_after", "moment"):
                assert sum(similar_captions(asked_about[0], one.caption) for one in plan.clips) == 1
            if question.type == "exists" and question.answer == "no":
                assert not any(similar_captions(asked_about[0], one.caption) for one in plan.clips)
            if options(question):
                assert len({normalize_caption(option) for option in options(question).values()}) == len(
                    options(question)
                )


def test_answer_check_detects_every_kind_of_wrong_answer(plain: Videos, labelled: Videos) -> None:
    """Another order, number or set of captions changes the answer."""
    for _, metadata, questions in plain[:60] + labelled[:60]:
        turned = {**metadata, "captions": metadata["captions"][::-1]}
        doubled = {**metadata, "captions": [*metadata["captions"], *metadata["captions"]]}
        emptied = {**metadata, "captions": []}
        for question in questions:
            assert correct_answers(question, metadata) == [question.answer]
            if question.type in ("caption_order", "before_after"):
                assert correct_answers(question, turned) != [question.answer]
                assert correct_answers(question, doubled) == []
            if question.type == "count_clip":
                assert correct_answers(question, doubled) == [str(2 * int(question.answer))]
            if question.type in ("needle", "moment"):
                assert correct_answers(question, emptied) == []
            if question.type == "exists":
                assert correct_answers(question, emptied) == ["no"]


def test_questions_in_annotations_get_shifted_times() -> None:
    own = (
        ClipQuestion("what colour is it?", "red", ("red", "blue", "green"), 3.2, 4.2),
        ClipQuestion("who is there?", "a dog", (), None, None),
    )
    clips = [replace(clip(number, 5), start=2.0, end=12.0, questions=own) for number in range(40)]
    for plan, metadata, questions in videos_of(ClipPool(clips, "train", *SETTINGS.frames, SETTINGS.fps), 10):
        asked_of = [question for question in questions if question.type == "clip_qa"]
        assert len(asked_of) == 2 * len({one.id for one in plan.clips})
        spans = {tuple(caption["seconds"]): caption for caption in metadata["captions"]}
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


def test_counts_are_balanced_with_and_without_labels(plain: Videos, labelled: Videos) -> None:
    for videos in (plain, labelled):
        counts = Counter(q.answer for _, _, questions in videos for q in questions if q.type == "count_clip")
        assert counts.total() == 400 and set(counts) == {"1", "2", "3", "4"} and min(counts.values()) > 70, counts
        for plan, _, questions in videos:
            (question,) = (q for q in questions if q.type == "count_clip")
            if not plan.counted:
                assert [one.id for one in plan.clips].count(plan.recurring) == int(question.answer)


def test_clips_that_may_show_the_counted_label_are_excluded() -> None:
    labels = [f"a {word}" for word in WORDS[:5]]
    clips = [clip(number, 8, labels[number % 5] if number % 3 else "") for number in range(150)]
    named = [replace(one, caption=f"{one.caption} {labels[(number + 1) % 5]}") for number, one in enumerate(clips[:60])]
    plans = ClipPool([*named, *clips[60:]], "train", *SETTINGS.frames, SETTINGS.fps).plans(0, 40)
    counting = [plan for plan in plans if plan.counted]
    assert len(counting) > 20
    for plan in counting:
        others = [one for one in plan.clips if normalize_caption(one.label) != plan.counted]
        assert all(one.label and not similar_captions(plan.counted, one.caption) for one in others)


def test_few_labels_permit_all_possible_questions() -> None:
    for labels in (1, 2, 3, 5):
        made = videos_of(pool_of(200, labels), 40)
        kinds = Counter(question.type for _, _, questions in made for question in questions)
        assert kinds["exists"] >= 40 and kinds["count_clip"] >= 20, (labels, kinds)
        for _, metadata, questions in made:
            assert all(correct_answers(question, metadata) == [question.answer] for question in questions), labels


def test_small_pool_gives_videos_and_too_small_a_pool_is_described() -> None:
    short = replace(SETTINGS, minutes=(0.5, 1.0))
    few = [clip(number, 6) for number in range(4)]  # 40 seconds
    for plan, metadata, questions in videos_of(ClipPool(few, "val", *short.frames, short.fps), 8, short):
        assert 60 <= len(metadata["times"]) <= 120 and questions and plan.key[1] == "val"
    for clips, settings in ((few[:2], short), (few, SETTINGS), ([], SETTINGS)):
        low, high = (f"{minutes * 60:g}" for minutes in settings.minutes)
        available = f"the {len(clips)} usable clips of split test have {len(clips) * 10} seconds in total"
        with pytest.raises(DataError, match=f"{available}.*{low} to {high} seconds"):
            ClipPool(clips, "test", *settings.frames, settings.fps)
    exact = replace(SETTINGS, minutes=(1.05, 1.05))  # clips of 10 seconds never make 63 seconds
    with pytest.raises(DataError, match="provide more clips, or a wider range of --minutes"):
        ClipPool([clip(number, 6) for number in range(60)], "test", *exact.frames, exact.fps).plans(0, 1)


def test_overlapping_parts_of_a_file_are_never_in_one_video() -> None:
    clips = [
        replace(clip(number, 6), source=f"s{number // 4}", start=3.0 * (number % 4), end=3.0 * (number % 4) + 10)
        for number in range(200)
    ]
    for plan in ClipPool(clips, "train", *SETTINGS.frames, SETTINGS.fps).plans(0, 40):
        some = [*{one.id: one for one in plan.clips}.values(), *plan.absent]
        for number, one in enumerate(some):
            for other in some[:number]:
                assert one.source != other.source or one.end <= other.start or other.end <= one.start


def test_plans_depend_on_seed_and_number_alone() -> None:
    pool = pool_of(100)
    assert pool.plans(3, 7) == pool.plans(3, 12)[:7]
    assert pool.plans(3, 2) != pool.plans(4, 2)


def test_lazy_shuffle_is_a_uniform_permutation() -> None:
    clips = [clip(number, 3) for number in range(4)]
    assert sorted(one.id for one in shuffle_lazily(RandomStream(1), clips)) == [one.id for one in clips]
    firsts = Counter(tuple(one.id for one in shuffle_lazily(RandomStream(seed, 9), clips)) for seed in range(2400))
    assert len(firsts) == 24 and np.std(list(firsts.values())) < 15  # 10 expected
