"""What is recorded of an answer: its text, whether it is right, its loss and its overlap with the right answer."""

from __future__ import annotations

import math

import pytest
import torch

from framefold.evaluation.ablation.ask import _AnswerDecoder
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import IGNORE, build_rows
from tests.support.paths import TINYHOST


def test_loss_and_overlap_count_the_tokens_of_the_answer_alone() -> None:
    host = load_host(TINYHOST)
    tokenizer = host.tokenizer
    red, blue, end = (*tokenizer("red blue", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    rows = build_rows([(9, 9), (9,), (9,)], [(red, blue, end), (blue, red, end), (red, end)], start=5)
    logits = torch.zeros(*rows.labels.shape, len(tokenizer))
    labels = rows.labels.roll(-1, dims=1)
    labels[:, -1] = IGNORE
    said = [[red, red, end], [red, blue, end], [red, end]]  # half of it, all of it in another order, right
    for row, tokens in enumerate(said):
        places = (labels[row] != IGNORE).nonzero()[:, 0].tolist()
        for place, token in zip(places, tokens, strict=True):
            logits[row, place, token] = 2.0
    half, swapped, right = _AnswerDecoder(host)(logits, rows)
    assert (half.text, half.correct, half.overlap) == ("red red </s>", False, 0.5)
    assert (swapped.correct, swapped.overlap) == (False, 1.0)
    assert (right.text, right.correct, right.overlap) == ("red </s>", True, 1.0)
    hit = math.log(len(tokenizer) - 1 + math.exp(2)) - 2
    assert right.loss == pytest.approx(hit, abs=1e-5)
    assert half.loss == pytest.approx((2 * hit + hit + 2) / 3, abs=1e-5)
    assert half.losses == pytest.approx([hit, hit + 2], abs=1e-3) and len(right.losses) == 1, "the end has no position"
