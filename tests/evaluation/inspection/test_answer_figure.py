"""Pictures of answers: one panel per answer, with the tokens that the host read in colour."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

from framefold import VideoTokens
from framefold.errors import ConfigError, InputError
from framefold.evaluation.inspection.answer_figure import FOOT, GAP, HEAD, PANEL
from framefold.evaluation.inspection.answer_table import Answer, AnswerRow
from framefold.evaluation.inspection.kept_tokens import KeptSheet

RED = (200, 40, 40)


def answer_about(kept: list[int], compare: bool = True) -> Answer:
    """An answer about 4 red frames of 1 x 2 tokens."""
    tokens = VideoTokens.from_grid(torch.zeros(4, 1, 2, 1)).keep(torch.tensor(kept))
    frames = np.full((4, 40, 80, 3), RED, np.uint8)
    few = AnswerRow("evs, budget 3", "a cat\nand more", len(kept), 20, 0.05, None, 0)
    full = AnswerRow("all tokens", "a dog", 8, 25, 0.125, None, 0)
    sheet = KeptSheet("what is it ?", frames, np.arange(4) / 2, (), 8)
    return Answer(few.text, few, full if compare else None, 8, tokens=tokens, sheet=sheet)


def test_dropped_tokens_are_grey_in_the_panel_of_the_compressor_alone(tmp_path: Path) -> None:
    picture = 255 * matplotlib.image.imread(answer_about([0, 3, 6]).save(tmp_path / "a.png"))[..., :3]
    assert picture.shape[1] == 2 * PANEL + 3 * GAP
    side, high = PANEL // 2, PANEL // 4
    assert picture.shape[0] == HEAD + 2 * high + FOOT
    for token in range(8):
        frame, place = divmod(token, 2)
        y, x = HEAD + (frame // 2) * high + high // 2, GAP + (frame % 2) * side + (2 * place + 1) * side // 4
        assert np.abs(picture[y, x] - RED).max() <= 2, token
        beside = picture[y, x + PANEL + GAP]
        assert np.abs(beside - RED).max() <= 2 if token in (0, 3, 6) else np.ptp(beside) <= 2, token


def test_texts_are_question_counts_answers_and_times() -> None:
    answer = answer_about([0, 3, 6])
    texts = [text.get_text() for text in answer.figure().texts]
    assert texts == [
        "what is it ?",
        *("all tokens: 8 visual tokens", "a dog", "125.0 ms to the first token of the answer, 25 tokens in the prompt"),
        *("evs: 3 visual tokens (38 %)", "a cat", "50.0 ms to the first token of the answer, 20 tokens in the prompt"),
    ]
    assert len(answer_about([1], compare=False).figure().texts) == 4


def test_the_panel_of_a_method_inside_the_language_model_has_the_tokens_of_the_last_layer() -> None:
    plain = answer_about(list(range(8)))
    assert plain.tokens is not None
    left = plain.tokens.keep(torch.tensor([0, 3, 6]))
    answer = replace(plain, left=left, compressed=replace(plain.compressed, mean=4.25))
    assert answer.figure().texts[4].get_text() == "evs: 8 to 3 visual tokens, mean over layers 4.2 (53 %)"
    table = str(answer).splitlines()
    head, row, full = table[4:7]
    assert "  visual tokens  mean over layers  prompt  " in head
    place = head.index("mean over layers")
    assert row[place : place + 16].strip() == "4.2" and full[place : place + 16].strip() == "8.0"
    assert "mean over layers" not in str(plain)
    panels = [np.asarray(one.images[0].get_array()) for one in answer.figure().axes]
    expected = [np.asarray(one.images[0].get_array()) for one in answer_about([0, 3, 6]).figure().axes]
    assert all(np.array_equal(*pair) for pair in zip(panels, expected, strict=True))


def test_an_answer_without_frames_and_a_wrong_suffix_are_errors(tmp_path: Path) -> None:
    answer = answer_about([0])
    with pytest.raises(ConfigError, match="out must end in .png"):
        answer.save(tmp_path / "a.mp4")
    with pytest.raises(InputError, match="framefold.answer keeps them"):
        Answer("", answer.compressed, None, 8).figure()
