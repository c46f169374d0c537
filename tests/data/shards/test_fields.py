"""The json of a sample: what is no text, no time and no box is damage that names the sample and the field."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from framefold.data.shards.sample import check_special_tokens, unpack_sample
from framefold.data.video.codec import encode_video
from framefold.errors import DataError

QUESTION = {
    "type": "color",
    "text": "which?",
    "answer": "red",
    "choices": ["red", "blue"],
    "evidence": [[1, 0, 0, 1, 1]],
}
HUGE = 10**400

# field of the question -> values that it must not have, with the words of the message after the field
TEXTS = [None, ["a"], {"a": 1}, True, "", "  \n\t", "\u200b\ufeff", "\x00", "\ud800"]
BAD_FIELDS: dict[str, list[Any]] = {
    "type": [*TEXTS, 3],
    "text": [*TEXTS, 3, 2.5],
    "answer": [*TEXTS, float("nan"), float("inf"), HUGE],
    "choices": [
        None, "red", {"red": 1}, 3, ["red", None], ["red", ""], ["red", ["blue"]], ["red", True], ["red", "red"],
        ["blue", "green"], ["red", {"a": 1}], ["red", float("nan")], ["red", "\u200b"],
    ],
    "evidence": [None, "all", 3, {"frame": 1}, [1, 0, 0, 1, 1], [[1, 0, 0, 1, 1], 7]],
}  # fmt: skip
BAD_BOXES = [
    [], [1, 0, 0, 1], [1, 0, 0, 1, 1, 1], None, "box", {"frame": 1},
    [4, 0, 0, 1, 1], [-1, 0, 0, 1, 1], [1.5, 0, 0, 1, 1], [True, 0, 0, 1, 1], ["1", 0, 0, 1, 1], [None, 0, 0, 1, 1],
    [float("nan"), 0, 0, 1, 1], [float("inf"), 0, 0, 1, 1], [HUGE, 0, 0, 1, 1], [2**70, 0, 0, 1, 1],
    [1, 0, 0, 120, 64], [1, 0, 0, 1.01, 1], [1, -0.1, 0, 1, 1], [1, 0, 0, float("nan"), 1], [1, 0, 0, float("inf"), 1],
    [1, 0.9, 0, 0.1, 1], [1, 0, 0.9, 1, 0.1], [1, 0.5, 0, 0.5, 1], [1, "0", 0, 1, 1], [1, 0, 0, 1, None],
    [1, 0, 0, True, 1], [1, 0, 0, HUGE, 1],
]  # fmt: skip
BAD_TIMES: list[Any] = [
    None, [], {}, 3, "0123", [0, 1, 2, None], ["0", "1", "2", "3"], [0, 1, True, 3], [[0], [1], [2], [3]],
    [0, 1, 2, float("nan")], [0, 1, 2, float("inf")], [0, 1, 2, HUGE], [0, 1, 2, 1e300], [-1, 0, 1, 2],
    [3, 2, 1, 0], [0, 2, 1, 3], [0, 1, 1, 2], [0, 0, 0, 0], [1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3],
]  # fmt: skip


@pytest.fixture(scope="module")
def mp4() -> bytes:
    return encode_video(np.zeros((4, 16, 16, 3), np.uint8), np.arange(4))


def unpack(mp4: bytes, question: Any = QUESTION, **fields: Any):
    metadata = {"schema": 2, "times": [0, 1, 2, 3], "questions": [QUESTION, question]} | fields
    return unpack_sample("clip-7", {"json": json.dumps(metadata).encode(), "mp4": mp4})


def refusal(mp4: bytes, *args: Any, **fields: Any) -> str:
    with pytest.raises(DataError) as caught:
        unpack(mp4, *args, **fields)
        pytest.fail(f"{args or fields} is accepted")
    return str(caught.value)


def test_what_is_no_text_is_damage_with_key_and_field(mp4):
    for field, values in BAD_FIELDS.items():
        for value in values:
            message = refusal(mp4, QUESTION | {field: value})
            assert message.startswith("clip-7.json") and f" questions[1].{field}" in message, (field, value, message)
            assert len(message) < 300, message
        missing = {name: value for name, value in QUESTION.items() if name != field}
        assert f"questions[1].{field} is missing" in refusal(mp4, missing)
    open_answer = {name: value for name, value in QUESTION.items() if name != "choices"}
    assert "choices is missing (an empty list if the answer is open)" in refusal(mp4, open_answer)


def test_what_is_no_box_is_damage_with_key_and_field(mp4):
    for box in BAD_BOXES:
        message = refusal(mp4, QUESTION | {"evidence": [[0, 0, 0, 1, 1], box]})
        assert message.startswith("clip-7.json") and " questions[1].evidence[1] " in message, (box, message)
    assert "divide pixels" in refusal(mp4, QUESTION | {"evidence": [[0, 3, 5, 120, 64]]})
    assert "only frames 0 to 3" in refusal(mp4, QUESTION | {"evidence": [[4, 0, 0, 1, 1]]})


def test_times_that_are_no_clock_are_damage_with_key_and_field(mp4):
    for times in BAD_TIMES:
        message = refusal(mp4, times=times)
        assert message.startswith("clip-7.json") and " times" in message, (times, message)
    for times in ([0, 1, 2], [0, 1, 2, 3, 4]):
        assert refusal(mp4, times=times) == f"clip-7.mp4 has 4 frames, but clip-7.json has {len(times)} times"


def test_json_of_another_form_is_damage_with_key(mp4):
    for questions in (None, {}, "what?", 3, [None], ["what?"], [[]]):
        assert " questions" in refusal(mp4, questions=questions)
    assert "has no questions" in refusal(mp4, questions=[])
    for schema in (None, 1, 3, "2", True, 2.0, [2], HUGE):
        assert "clip-7.json has schema" in refusal(mp4, schema=schema)
    for text in (b"", b"[]", b"null", b"7", b'"a"', b"{", b"\xff\xfe", b'{"schema": 2', b"[" * 10**5, b"9" * 5000):
        with pytest.raises(DataError, match=r"clip-7\.json (is damaged|must be an object)"):
            unpack_sample("clip-7", {"json": text, "mp4": mp4})
            pytest.fail(f"{text[:9]!r} is accepted")


def test_a_field_that_is_given_twice_is_damage_with_key_and_field(mp4):
    text = json.dumps({"schema": 2, "times": [0, 1, 2, 3], "questions": [QUESTION]})
    for field, first in (("answer", "blue"), ("times", [0]), ("text", "who?")):
        twice = text.replace(f'"{field}":', f'"{field}": {json.dumps(first)}, "{field}":')
        with pytest.raises(DataError, match=f"clip-7.json is damaged: the field '{field}' is given twice"):
            unpack_sample("clip-7", {"json": twice.encode(), "mp4": mp4})
            pytest.fail(field)


def test_numbers_are_answers_and_choices_and_boxes_may_touch_the_edges(mp4):
    for answer, choices, text in (
        (3, [1, 2, 3], "3"), (2.5, [], "2.5"), ("3", [3, 4], "3"), (0, ["0", 1], "0"), (-1, [], "-1"), ("é", [], "é"),
    ):  # fmt: skip
        question = unpack(mp4, QUESTION | {"answer": answer, "choices": choices}).questions[1]
        assert question.answer == text and (not choices or text in question.choices)
    boxes = [[0, 0, 0, 1, 1], [3.0, 0, 0.0, 1, 1 + 1e-9], [2, 0.25, 0.5, 0.26, 1]]
    found = unpack(mp4, QUESTION | {"evidence": boxes}).questions[1].evidence
    assert [list(box) for box in found] == boxes and all(type(box[0]) is int for box in found)
    assert unpack(mp4, times=[0.0, 0.001, 5, 7200.04]).times.tolist()[2] == 5


def test_special_tokens_of_the_host_are_damage_with_key_and_field(mp4):
    for field in ("text", "answer"):
        questions = unpack(mp4, QUESTION | {field: "is it <|video_pad|> ?", "choices": []}).questions
        check_special_tokens("clip-7", questions, ("<image>", "</s>"))
        where = rf"clip-7\.json: questions\[1\]\.{field} contains '<\|video_pad\|>'"
        with pytest.raises(DataError, match=where):
            check_special_tokens("clip-7", questions, ("<image>", "<|video_pad|>"))


def test_files_that_a_sample_lacks_are_named_with_what_is_there(mp4):
    for files, text in (
        ({"mp4": mp4}, "clip-7 has no json"),
        ({"json": b"{}"}, "clip-7 has no mp4"),
        ({"json": b"{}", "webm": b""}, "clip-7 has no mp4: it has webm"),
        (
            {"v2.0001.mp4": b"", "v2.0001.json": b""},
            "v2.0001.json, v2.0001.mp4, and the key of a sample is its file name up to",
        ),
    ):
        with pytest.raises(DataError) as caught:
            unpack_sample("clip-7", {"__key__": "clip-7", "__url__": "x", **files})
            pytest.fail(text)
        assert text in str(caught.value)


def test_a_question_may_follow_an_earlier_one_only(mp4):
    first, second = unpack(mp4, {**QUESTION, "text": "and?", "follows": 0}).questions
    assert first.history == () and second.history == (("which?", "red"),)
    assert unpack(mp4, {**QUESTION, "follows": None}).questions[1].history == ()
    third = {**QUESTION, "follows": 1}
    questions = unpack(mp4, questions=[QUESTION, {**QUESTION, "follows": 0, "text": "and?"}, third]).questions
    assert questions[2].history == (("which?", "red"), ("and?", "red"))
    for value in (1, 2, -1, "0", True, 0.5, [0]):
        assert "questions[1].follows must be the number of an earlier question" in refusal(
            mp4, {**QUESTION, "follows": value}
        )
