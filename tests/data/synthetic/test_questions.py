"""Questions: correct for videos and their twins, in a closed vocabulary, with evidence that shows the answer."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from framefold.data.question import Question
from framefold.data.synthetic.difficulty import PRESETS, Difficulty
from framefold.data.synthetic.generate import Video, generate
from framefold.data.synthetic.questions import CHANCE, HEADLINE, QUESTION_TYPES, TEXT, VOCABULARY, asked_types
from framefold.data.synthetic.render import COLORS, SHAPES, TEXTURES
from framefold.data.synthetic.scenes import Scene
from framefold.data.synthetic.timeline import Event
from tests.support.annotated_videos import without_pixels

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "first": "second", "second": "first"}
SAME = ("needle", "between", "exists", "count_flash", "count_scene", "bg_at")
DIFFICULTIES = ("easy", "hard", "crowded")
NUMBERS = ("one", "two", "three", "four")
Asked = tuple[Video, Question]


@pytest.fixture(scope="module")
def videos() -> list[Video]:
    """Annotations of 240 pairs of twins, short and long, of all difficulties."""
    settings = [(frames, difficulty) for frames in (16, 24, 64, 65) for difficulty in DIFFICULTIES]
    with without_pixels():
        return [
            generate(i, frames=frames, difficulty=difficulty, size=64)
            for i in range(480)
            for frames, difficulty in [settings[i // 2 % len(settings)]]
        ]


@pytest.fixture(scope="module")
def asked(videos) -> list[Asked]:
    """All possible questions about some of the videos, and the chosen questions about all."""
    every = [(video, question) for video in videos[:64] for question in video.every_question()]
    return every + [(video, question) for video in videos for question in video.questions]


def words_of(question: Question) -> dict[str, str]:
    """The words in the gaps of the text of a question."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\w+)", re.escape(TEXT[question.type]))
    found = re.fullmatch(pattern, question.text)
    assert found, question.text
    return found.groupdict()


def flashes_of(video: Video) -> list[Event]:
    return sorted((event for event in video.events if event.kind == "flash"), key=lambda event: event.first)


def the_flash(video: Video, shape: str) -> Event:
    (flash,) = (flash for flash in flashes_of(video) if flash.shape == shape)  # a shape in a question is unique
    return flash


def bare_scene(video: Video, first: int, last: int) -> Scene:
    """The only scene in some frames, which must not contain a cross-fade."""
    (scene,) = (scene for scene in video.scenes if scene.first <= first and last <= scene.last)
    for other in video.scenes[1:]:
        assert last < other.first - other.fade or first >= other.first + other.fade
    return scene


def answer_of(video: Video, question: Question) -> str:
    """The answer, derived independently from events and scenes."""
    words, flashes = words_of(question), flashes_of(video)
    match question.type:
        case "needle":
            return the_flash(video, words["a"]).color
        case "order_first":
            return flashes[0].shape
        case "order_last":
            return flashes[-1].shape
        case "order_pair":
            return min((words["a"], words["b"]), key=lambda shape: the_flash(video, shape).first)
        case "between":
            start, end = sorted(the_flash(video, words[name]).first for name in "ab")
            (middle,) = (flash for flash in flashes if start < flash.first < end)
            return middle.shape
        case "exists":
            return "yes" if the_flash(video, words["a"]).color == words["color"] else "no"
        case "half":
            flash, middle = the_flash(video, words["a"]), (len(video.frames) - 1) / 2
            assert min(abs(at - middle) for at in (flash.first, flash.last)) > len(video.frames) // 16
            return "first" if flash.last < middle else "second"
        case "count_flash":
            return NUMBERS[sum(flash.color == words["color"] for flash in flashes) - 1]
        case "count_scene":
            return NUMBERS[sum(one.last + 1 == other.first for one, other in pairwise(video.scenes))]
        case "direction":
            (mover,) = (event for event in video.events if event.kind == "mover")
            assert mover.shape == words["a"]
            (y0, x0), (y1, x1) = mover.path[0], mover.path[-1]
            ways = {"left": x1 < x0, "right": x1 > x0, "up": y1 < y0, "down": y1 > y0}
            (way,) = (way for way, true in ways.items() if true)
            return way
        case "background":
            frame = {"start": 0, "end": len(video.frames) - 1}[words["end"]]
            assert {words["a"], words["b"]} == {video.scenes[0].texture, video.scenes[-1].texture}
            return next(scene.texture for scene in video.scenes if scene.first <= frame <= scene.last)
        case "bg_at":
            flash = the_flash(video, words["c"])
            assert {words["a"], words["b"]} <= {scene.texture for scene in video.scenes}
            return bare_scene(video, flash.first, flash.last).texture
        case "repeat":
            same = [flash for flash in flashes if flash.shape == words["a"]]
            assert len(same) > 1 and same[0].color != same[-1].color
            return same[0 if words["end"] == "first" else -1].color
    raise AssertionError(question.type)


def test_answers_of_all_types_follow_from_scenes_and_events(asked):
    seen = Counter()
    for video, question in asked:
        assert question.answer == answer_of(video, question), (video.key, question)
        seen[question.type] += 1
    assert set(seen) == set(QUESTION_TYPES) and min(seen.values()) > 100


def test_vocabulary_is_exact_and_the_number_of_choices_matches_the_chance_level(asked):
    said = set()
    for _, question in asked:
        said |= {*question.text.split(), *question.choices}
        assert question.choices.count(question.answer) == 1
        assert len(set(question.choices)) == len(question.choices) == round(1 / CHANCE[question.type])
    assert said == set(VOCABULARY)  # no word is missing or unused


def test_choices_are_those_that_the_text_permits(asked):
    fixed = {"needle": COLORS, "order_first": SHAPES, "order_last": SHAPES, "exists": ("yes", "no")}
    fixed |= {"half": ("first", "second"), "count_flash": NUMBERS, "count_scene": NUMBERS}
    fixed |= {"direction": ("left", "right", "up", "down"), "repeat": COLORS}
    for _, question in asked:
        words = words_of(question)
        if question.type in fixed:
            assert question.choices == tuple(fixed[question.type])
        elif question.type == "between":
            assert {*question.choices, words["a"], words["b"]} == set(SHAPES) and len(question.choices) == 4
        else:
            assert question.choices == (words["a"], words["b"]) and words["a"] != words["b"]
            assert set(question.choices) <= set(SHAPES if question.type == "order_pair" else TEXTURES)


def test_headline_is_every_type_except_background():
    assert set(QUESTION_TYPES) - set(HEADLINE) == {"background"} and len(QUESTION_TYPES) == 13
    assert set(CHANCE) == set(QUESTION_TYPES)


def test_one_possible_question_of_each_type_is_chosen(videos):
    for video in videos[:64]:
        kinds = [question.type for question in video.questions]
        assert kinds == sorted(set(kinds), key=QUESTION_TYPES.index)
        possible = video.every_question()
        assert set(video.questions) <= set(possible) and {question.type for question in possible} == set(kinds)
    rare = {"half", "background", "bg_at", "repeat"}  # not in short videos, those of one scene, or of equal colours
    for video in videos:
        asked = set(asked_types(PRESETS["easy" if video.counted else "crowded"]))
        assert asked - rare <= {question.type for question in video.questions} <= asked
    long = [video for video in videos if video.crowd and len(video.frames) > 60]
    assert sum(any(question.type == "repeat" for question in video.questions) for video in long) > 0.9 * len(long) > 50


def test_long_hard_video_has_all_types_that_need_one_scene():
    missing = Counter()
    with without_pixels():
        for index in range(0, 200, 2):
            video = generate(index, difficulty="hard", size=32)
            missing.update(set(asked_types(PRESETS["hard"])) - {question.type for question in video.questions})
    assert set(missing) <= {"background", "bg_at", "half"} and missing["half"] < 55  # needs a flash in each half
    assert missing["background"] < 60 and missing["bg_at"] < 70


# ---- twins ----------------------------------------------------------------------------------------------------------


def test_twins_get_the_same_questions(videos):
    for one, other in zip(videos[::2], videos[1::2], strict=True):
        assert [(q.type, q.text, q.choices) for q in one.questions] == [
            (q.type, q.text, q.choices) for q in other.questions
        ]


def test_answers_of_twins_differ_only_if_they_depend_on_time(videos):
    seen = Counter()
    for one, other in zip(videos[::2], videos[1::2], strict=True):
        flashes = flashes_of(one)
        for question, twin in zip(one.questions, other.questions, strict=True):
            kind, pair = question.type, (question.answer, twin.answer)
            if kind in SAME:
                assert pair[0] == pair[1], kind
            elif kind in ("order_first", "order_last"):
                assert pair == tuple(flashes[at].shape for at in ((0, -1) if kind == "order_first" else (-1, 0)))
            elif kind in ("half", "direction"):
                assert OPPOSITE[pair[0]] == pair[1]
            elif kind == "repeat":  # the other end of the same flashes
                same = [flash.color for flash in flashes if flash.shape in question.text.split()]
                assert pair == ((same[0], same[-1]) if "first" in question.text.split() else (same[-1], same[0]))
            else:  # a or b: the other one
                assert kind in ("order_pair", "background") and set(pair) == set(question.choices)
            seen[kind, pair[0] == pair[1]] += 1
    assert {kind for kind, _ in seen} == set(QUESTION_TYPES)
    for kind in ("order_first", "order_last"):  # they differ unless first and last have the same shape
        assert seen[kind, True] < seen[kind, False] / 4


# ---- evidence -------------------------------------------------------------------------------------------------------


def test_evidence_is_where_and_when_the_answer_is_visible(asked):
    for video, question in asked:
        words, flashes, evidence = words_of(question), flashes_of(video), question.evidence
        (mover,) = (event for event in video.events if event.kind == "mover")
        named = [flash for flash in flashes if flash.shape in words.values()]
        at = sorted(flashes.index(flash) for flash in named)
        shown = {
            "needle": named,
            "order_first": flashes[:1],
            "order_last": flashes[-1:],
            "order_pair": named,
            "between": flashes[at[0] : at[-1] + 1] if at else [],
            "exists": named,
            "half": named,
            "count_flash": [flash for flash in flashes if flash.color == words.get("color")],
            "direction": [mover],
            "repeat": named,
        }
        if question.type in shown:
            assert set(evidence) == {box for event in shown[question.type] for box in event.boxes}
        elif question.type == "bg_at":
            *boxes, (frame, y0, x0, y1, x1) = evidence
            assert tuple(boxes) == named[0].boxes and frame == named[0].first
            _, top, left, bottom, right = boxes[0]
            apart = y1 <= top or bottom <= y0 or x1 <= left or right <= x0
            assert (y1 - y0, x1 - x0) == (0.5, 0.5)
            assert apart or 0.19 < top < 0.5 and 0.19 < left < 0.5  # in the middle, no quarter is completely free
        else:
            scenes = {box[0]: bare_scene(video, box[0], box[0]) for box in evidence}
            wanted = list(video.scenes)
            if question.type == "background":
                wanted = wanted[:1] if words["end"] == "start" else wanted[-1:]
            assert list(scenes.values()) == wanted


def test_lists_name_all_flashes_in_order_and_are_asked_only_on_request() -> None:
    with without_pixels():
        for index in (4, 5):  # twins
            plain, video = (generate(index, frames=32, difficulty=Difficulty(lists=lists)) for lists in (False, True))
            assert plain.questions == video.questions[:-1], "the other questions are the same"
            question = video.questions[-1]
            flashes = sorted((event for event in video.events if event.kind == "flash"), key=lambda one: one.first)
            words = question.answer.split()
            assert question.type == "list" and len(words) == 2 * len(flashes) >= 8 and question.choices == ()
            assert list(zip(words[::2], words[1::2], strict=True)) == [(one.color, one.shape) for one in flashes]
            assert {*words, *question.text.split()} <= set(VOCABULARY)
            assert set(question.evidence) == {box for flash in flashes for box in flash.boxes}
    assert Difficulty().to_dict() == PRESETS["easy"].to_dict() and "lists" not in PRESETS["crowded"].to_dict()
    assert asked_types(Difficulty(lists=True)) == (*asked_types(Difficulty()), "list")
