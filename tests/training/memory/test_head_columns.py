"""The head of a host runs on the columns of answers only, and gives the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from framefold.data.synthetic.recipe import Recipe
from framefold.training.frozen_host.batch import answer_questions, answer_windows, compress_batch, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import (
    IGNORE,
    QuestionRows,
    answer_logits,
    answer_loss,
    answer_mask,
    predict,
)
from framefold.training.teacher import TeacherAttention, teacher_outputs


@pytest.fixture(scope="module")
def host(deep_host: Path) -> Any:
    return load_host(deep_host)


@pytest.fixture(scope="module")
def batch(host: Any) -> Any:
    return encode_batch(host, [Recipe((16, 20)).sample(i) for i in range(2)])


def head_inputs(host: Any) -> tuple[list[tuple[int, ...]], Any]:
    """Return a list that the shapes of all inputs of the head are added to, and the handle of the hook."""
    shapes: list[tuple[int, ...]] = []
    head = host.model.get_output_embeddings()
    return shapes, head.register_forward_hook(lambda _, args, output: shapes.append(tuple(args[0].shape[:2])))


@pytest.mark.parametrize("name", ["uniform", "fastv"])  # one prefill for all questions, complete prompts
def test_the_head_gets_the_columns_of_answers_and_gives_the_same_losses(host: Any, batch: Any, name: str) -> None:
    compressor, rows = framefold.build(name, 0.5), batch.rows
    longest = int((rows.labels != IGNORE).sum(1).max())
    shapes, hook = head_inputs(host)
    answers = answer_questions(host, compressor, batch)
    teacher = teacher_outputs(host, batch, TeacherAttention()).logits
    hook.remove()
    questions = len(rows.video)
    prefills = [shape for shape in shapes if shape[1] == 1]
    assert [shape for shape in shapes if shape[1] > 1] == [(questions, 1 + longest)] * 2
    assert 1 + longest < rows.input_ids.shape[1] / 3 and len(prefills) == (2 if name == "uniform" else 1)
    assert answers.logits.shape[:2] == teacher.shape[:2] == answers.batch.rows.labels.shape
    if name == "uniform":
        prefix = compress_batch(host, compressor, batch).kwargs
        full = answer_logits(host.model, prefix, rows)
        torch.testing.assert_close(
            answer_loss(answers.logits, answers.batch.rows), answer_loss(full, rows), atol=1e-6, rtol=0
        )
        assert predict(answers.logits, answers.batch.rows).equal(predict(full, rows))
        ours, theirs = answers.logits[answer_mask(answers.batch.rows)], full[answer_mask(rows)]
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_windows_reach_from_the_last_token_of_the_question_to_the_last_label() -> None:
    x = IGNORE
    ids = torch.tensor([[5, 6, 7, 8, 0], [5, 9, 0, 0, 0], [1, 2, 3, 0, 0]])
    labels = torch.tensor([[x, x, 7, 8, x], [x, 9, x, x, x], [x, x, x, x, x]])
    start = torch.tensor([10, 20, 30])
    columns, rows = answer_windows(QuestionRows(ids, (ids != 0).long(), labels, torch.tensor([0, 0, 1]), start))
    assert columns[0].tolist() == [1, 2, 3] and columns[1, :2].tolist() == [0, 1] and columns[2, 0] == 2
    assert rows.input_ids.tolist() == [[6, 7, 8], [5, 9, 0], [3, 0, 0]]
    assert rows.labels.tolist() == [[x, 7, 8], [x, 9, x], [x, x, x]]
    assert rows.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert rows.start.tolist() == [11, 20, 32]
    logits = torch.randn(3, 5, 11)
    cut = logits.gather(1, columns[..., None].expand(-1, -1, 11))
    full = QuestionRows(ids, (ids != 0).long(), labels, torch.tensor([0, 0, 1]), start)
    assert predict(cut, rows).equal(predict(logits, full))
    torch.testing.assert_close(answer_loss(cut, rows), answer_loss(logits, full))
    assert cut[answer_mask(rows)].equal(logits[answer_mask(full)])
