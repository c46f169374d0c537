"""Rows of every dialect become conversations: turns, options, captions and times."""

from __future__ import annotations

from typing import Any

import pytest

from framefold.data.imported.dialects.damage import DAMAGE, RefusedRow
from framefold.data.imported.dialects.dialect import ImportedRow
from framefold.data.imported.dialects.options import answer_choices, find_options, letter_options
from framefold.data.imported.dialects.registry import DIALECTS, detect_dialect, find_dialect
from framefold.data.imported.write_shards import import_shards
from framefold.errors import DataError
from tests.support.annotated_files import chat, messages
from tests.support.paths import ROOT

LETTERS = "What is it?\nA. a dog\nB. a cat\nC. a cow\nAnswer with the letter."
PARTS = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "What is it?"}]
URL_PARTS = [{"type": "text", "text": "What is it?"}, {"type": "video_url", "video_url": {"url": "file:///v/a.mp4"}}]
KEY_FRAMES = {
    "video_id": "a",
    "video_path": "pexels/a.mp4",
    "timestamp": ["00:00:00.000", "00:00:02.000", "00:01:04.500"],
    "keyframe": [0, 60, 1935],
    "captions": [
        {"idx": "-1", "content": "A dog runs."},
        {"idx": "0", "content": "A dog."},
        {"idx": "1", "content": "It runs."},
        {"idx": 2, "content": "The end."},
        {"idx": "1-2", "content": "Between."},
    ],
}
# Rows, the dialect that they are detected as, their video, and their conversations as (text, answer, choices, seconds).
ROWS: list[tuple[dict[str, Any], str, str, list[list[tuple[Any, ...]]]]] = [
    (
        chat("<image>\nWhat is it?", "A dog.", "And then?", "It runs."),
        "llava",
        "clip000.mp4",
        [[("What is it?", "A dog.", (), None), ("And then?", "It runs.", (), None)]],
    ),
    (chat(LETTERS + "\n<video>", "B"), "llava", "clip000.mp4", [[(LETTERS, "B", ("A", "B", "C"), None)]]),
    (
        {**chat("<video>What is it?", "A dog."), "videos": ["a.mp4"], "system": "Be short."},
        "sharegpt",
        "clip000.mp4",
        [[("Be short.\nWhat is it?", "A dog.", (), None)]],
    ),
    (
        messages("<video>What is it?", "A dog.", "Sure?", "Yes.", videos=["a.mp4"], images=[]),
        "messages",
        "a.mp4",
        [[("What is it?", "A dog.", (), None), ("Sure?", "Yes.", (), None)]],
    ),
    (messages(PARTS, "A dog."), "messages", "a.mp4", [[("What is it?", "A dog.", (), None)]]),
    (
        messages(URL_PARTS, [{"type": "text", "text": "A dog."}]),
        "messages",
        "/v/a.mp4",
        [[("What is it?", "A dog.", (), None)]],
    ),
    (
        KEY_FRAMES,
        "sharegpt4video",
        "pexels/a.mp4",
        [
            [("Describe the video.", "A dog runs.", (), None)],
            [("What happens from 0 to 2 seconds of the video?", "A dog.", (), (0.0, 2.0))],
            [("What happens from 2 to 64.5 seconds of the video?", "It runs.", (), (2.0, 64.5))],
            [("What happens from 64.5 seconds to the end of the video?", "The end.", (), (64.5, None))],
        ],
    ),
    (
        {"key": "v_1", "duration": 9.5, "timestamps": [[0.5, 3], [3.0, 9.5]], "sentences": ["It runs.", " It jumps. "]},
        "activitynet",
        "v_1",
        [
            [("What happens from 0.5 to 3 seconds of the video?", "It runs.", (), (0.5, 3.0))],
            [("What happens from 3 to 9.5 seconds of the video?", "It jumps.", (), (3.0, 9.5))],
        ],
    ),
    (
        {"video": "a.mp4", "question": "What is it?", "answer": "1", "options": ["a dog", "a cat"], "start": "0:01"}
        | {"end": "2.5"},
        "csv",
        "a.mp4",
        [[("What is it?\nA. a dog\nB. a cat", "B", ("A", "B"), (1.0, 2.5))]],
    ),
    (
        {"videoid": "77", "name": "A dog runs.", "duration": "PT00H00M10S"},
        "csv",
        "77",
        [[("Describe the video.", "A dog runs.", (), None)]],
    ),
]


def turns(row: ImportedRow) -> list[list[tuple[Any, ...]]]:
    return [[(t.text, t.answer, t.choices, t.seconds) for t in conversation] for conversation in row.conversations]


def test_every_dialect_is_detected_and_converted() -> None:
    for row, name, video, expected in ROWS:
        row = {**row, "video": None} if "videos" in row and name == "sharegpt" else row
        dialect = detect_dialect(row, "a.json, entry 1")
        assert dialect.name == name and dialect is find_dialect(name)
        imported = dialect.convert(row)
        assert imported.video == (video if name != "sharegpt" else "a.mp4") and turns(imported) == expected
    assert {name for _, name, _, _ in ROWS} == {dialect.name for dialect in DIALECTS}


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match="did you mean 'messages'"):
        find_dialect("mesages")
    with pytest.raises(DataError, match="a.json, entry 1 has the fields clip, label.*--columns.*llava: LLaVA-Video"):
        detect_dialect({"clip": "a.mp4", "label": 1}, "a.json, entry 1")


def test_options_are_found_in_the_text() -> None:
    for text, expected in (
        (LETTERS, ("a dog", "a cat", "a cow")),
        ("Which?\n(A) a dog\n(B) a cat", ("a dog", "a cat")),
        ("Which?\n  A) a dog\n  B) a cat", ("a dog", "a cat")),
        ("Which? (A) a dog (B) a cat", ("a dog", "a cat")),
        ("Which?\nB. a dog\nC. a cat", ()),
        ("Is it vitamin A. or not?", ()),
        ("Which?\nA. a dog", ()),
        ("Which?\nA. a dog\nB. a cat\nA. again", ("a dog", "a cat")),
    ):
        assert find_options(text) == expected, text


def test_choices_are_written_like_the_answer() -> None:
    options = ("a dog", "a cat")
    for answer, expected in (
        ("B", ("A", "B")),
        ("(B)", ("(A)", "(B)")),
        ("B.", ("A.", "B.")),
        ("B. a cat", ("A. a dog", "B. a cat")),
        ("(B) a cat.", ("(A) a dog", "(B) a cat.")),
        ("A cat.", ("a dog", "A cat.")),
        ("It is a cat.", ()),
        ("B. a horse", ()),
    ):
        assert answer_choices(answer, options) == expected, answer
    for answer, given in (("C", options), ("x", ("x", "x")), ("(Z).", options)):
        with pytest.raises(RefusedRow):
            answer_choices(answer, given)


def test_listed_options_get_letters() -> None:
    for answer in ("1", "B", "b cat", "B. b cat"):
        assert letter_options("Which?", ["A. a dog", "B. b cat"], answer) == ("Which?\nA. a dog\nB. b cat", "B"), answer
    assert letter_options("How many?", ["1", "2"], "1") == ("How many?\nA. 1\nB. 2", "A")  # the option, not its number
    for options, answer in ((["x"], "x"), (["x", "X."], "x"), (["x", "y"], "z"), (["x", "y"], "2"), (["x", ""], "x")):
        with pytest.raises(RefusedRow):
            letter_options("Which?", options, answer)


def test_the_guide_and_the_help_name_every_dialect_and_every_kind_of_damage() -> None:
    guide = (ROOT / "docs" / "import_data.md").read_text()
    words = [*DAMAGE, *(dialect.name for dialect in DIALECTS)]
    assert [word for word in words if f"`{word}`" not in guide] == []
    described = (import_shards.__doc__ or "").partition("format: ")[2].partition("auto looks")[0]
    assert [dialect.name for dialect in DIALECTS if dialect.name not in described] == []
