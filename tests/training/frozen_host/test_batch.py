"""Compressors that read the question inside the language model get one complete prompt per question."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import InputError
from framefold.evaluation.metrics.timing import TimedCompressor
from framefold.training.frozen_host.batch import answer_questions, compress_batch, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import IGNORE
from tests.support.hosts.in_llm import Acting, JoinPairsOnInput, recording_runs

SAMPLES = [Recipe((16, 20)).sample(i) for i in range(2)]


@pytest.fixture(scope="module")
def host(deep_host: Path) -> Any:
    return load_host(deep_host)


@pytest.fixture(scope="module")
def batch(host: Any) -> Any:
    return encode_batch(host, SAMPLES)


@torch.no_grad()
def test_keeping_every_token_equals_one_prefill_for_many_questions(host: Any, batch: Any) -> None:
    expected = answer_questions(host, framefold.build("identity"), batch)
    found = answer_questions(host, TimedCompressor(framefold.build("fastv", 1.0), host.model.device), batch)
    real = found.batch.rows.attention_mask.bool()
    assert found.logits.shape == expected.logits.shape
    assert (found.logits - expected.logits)[real].abs().max() < 2e-5
    assert not hasattr(host.model, "_framefold_in_llm")


@torch.no_grad()
def test_the_last_token_of_each_question_asks_and_rows_are_independent(host: Any, batch: Any) -> None:
    compressor = framefold.build("fastv", 0.5)
    with recording_runs() as runs:
        together = answer_questions(host, compressor, batch)
    prefix = together.prepared.kwargs["input_ids"].shape[1]
    asked = (batch.rows.labels == IGNORE).cumprod(1) * batch.rows.attention_mask
    assert runs[0].asks.tolist() == (prefix + asked.sum(1) - 1).tolist()
    complete = answer_questions(host, framefold.build("identity"), batch)
    assert (together.logits - complete.logits).abs().max() > 1e-2
    start = 0
    for sample in SAMPLES:
        alone = answer_questions(host, compressor, encode_batch(host, [sample]))
        rows = slice(start, start + len(sample.questions))
        real, width = together.batch.rows.attention_mask[rows].bool(), alone.logits.shape[1]
        assert (together.logits[rows, :width] - alone.logits)[real[:, :width]].abs().max() < 2e-5
        start += len(sample.questions)


@torch.no_grad()
def test_what_reads_no_attention_keeps_one_prefill_for_many_questions(host: Any, batch: Any) -> None:
    sample = encode_batch(host, SAMPLES[:1])
    with recording_runs() as runs:
        shared = answer_questions(host, Acting(JoinPairsOnInput(2)), sample)
    assert len(runs) == 1 and len(runs[0].mask) == 1
    each = Acting(JoinPairsOnInput(2))
    each.query_aware = True
    with recording_runs() as runs:
        alone = answer_questions(host, each, sample)
    assert len(runs[0].mask) == len(sample.questions)
    real = shared.batch.rows.attention_mask.bool()
    assert (shared.logits - alone.logits)[real].abs().max() < 2e-5


def test_a_prefix_without_its_question_is_refused(host: Any, batch: Any) -> None:
    with pytest.raises(InputError, match="acts inside the language model"):
        compress_batch(host, framefold.build("fastv", 0.5), batch.one_video_per_question())


@pytest.mark.parametrize("name", ["qtsplus", "xpool"])
def test_questions_share_what_is_read_of_their_video_alone(host: Any, batch: Any, name: str) -> None:
    compressor = framefold.build(name, 0.25, context=(8,))
    with torch.no_grad():
        answer_questions(host, compressor, batch)  # creates the weights
        for parameter in compressor.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    runs: list[int] = []
    compressor.surroundings.register_forward_hook(lambda *_: runs.append(1))
    together = answer_questions(host, compressor, batch).prepared.scores
    assert len(runs) == len(SAMPLES)
    torch.stack([scores.square().sum() for scores in together]).sum().backward()
    shared = [parameter.grad for parameter in compressor.parameters()]

    compressor.zero_grad()
    asked = batch.one_video_per_question()
    alone = [answer_questions(host, compressor, encode_batch(host, [one])) for one in _single_questions()]
    assert len(runs) == len(SAMPLES) + len(asked.encoded)
    torch.stack([one.prepared.scores[0].square().sum() for one in alone]).sum().backward()
    for scores, one in zip(together, alone, strict=True):
        assert torch.allclose(scores, one.prepared.scores[0], atol=1e-4)
    for (key, parameter), grad in zip(compressor.named_parameters(), shared, strict=True):
        assert (grad is None) == (parameter.grad is None), key
        assert grad is None or torch.allclose(grad, parameter.grad, rtol=1e-3, atol=1e-3 * grad.abs().max()), key


def _single_questions() -> list[Any]:
    return [replace(sample, questions=[question]) for sample in SAMPLES for question in sample.questions]
