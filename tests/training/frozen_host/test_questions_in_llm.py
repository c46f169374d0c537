"""Many questions on one prefill equal complete prompts where a stage in the language model reads no attention.

The videos of a batch have different lengths, and some stages leave different numbers of tokens of equal ones, so there
is padding in front of the questions in the prompt and inside the language model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters import VideoTokens
from framefold.adapters.base.in_llm import Decision
from framefold.adapters.hosts import in_llm, prepare
from framefold.training.frozen_host.question_rows import IGNORE, QuestionRows, answer_logits, packed_logits
from tests.support.cases import case
from tests.support.hosts.bare_hosts import Batch, Host, build
from tests.support.hosts.in_llm import LAYERS, Acting, JoinPairs, JoinPairsOnInput, StandIn, recording_runs
from tests.support.hosts.oracles import CONTROL, TOLERANCE

QUESTIONS = [[11, 4, 7, 9], [5, 13, 8], [6, 6, 4, 12], [12, 9]]  # two for each video


class KeepLarge(StandIn):
    """Keeps the tokens whose first feature is above the mean; reads no attention."""

    site = "input"

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        first = video.features[:, 0]
        return Decision((first >= first.mean()).nonzero()[:, 0])


COMPRESSORS: dict[str, Callable[[], Any]] = {
    "merged on input": lambda: Acting(JoinPairsOnInput(2)),
    "merged after attention": lambda: Acting(JoinPairs(1), every=2),
    "dropped, then dropped again": lambda: Acting(KeepLarge(1, 3)),
    "at_layer": lambda: framefold.build("at_layer", 0.6),
}


@pytest.fixture(scope="module", params=["qwen3_vl", "llava_onevision", "internvl"])
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param, layers=LAYERS)


def question_rows(starts: Tensor) -> QuestionRows:
    width = max(map(len, QUESTIONS))
    ids = torch.tensor([question + [0] * (width - len(question)) for question in QUESTIONS])
    video = torch.arange(len(starts)).repeat_interleave(2)
    return QuestionRows(ids, (ids != 0).long(), torch.full_like(ids, IGNORE), video, starts[video])


def complete_logits(batch: Batch, compressor: Any) -> list[Tensor]:
    """Return the logits at each question after its video, in one prompt of an attached host."""
    found = []
    with framefold.attach(batch.host.model, compressor):
        for number, question in enumerate(QUESTIONS):
            prompt = batch.rows_alone[number // 2].with_tokens(torch.tensor([question]))
            found.append(batch.host.model(**prompt.attached_inputs).logits[0, -len(question) :])
    return found


def starts_of(batch: Batch) -> Tensor:
    """Return the (B,) position after each complete video."""
    kwargs = prepare(batch.host.model, batch.attached_inputs, framefold.build("identity")).kwargs
    real = kwargs["position_ids"].masked_fill(kwargs["attention_mask"] == 0, -1)
    return real.reshape(-1, *real.shape[-2:]).amax((0, 2)) + 1


def shared_logits(batch: Batch, compressor: Any, forward: Callable[..., Tensor]) -> list[Tensor]:
    """Return the same from one prefill of both videos."""
    model = batch.host.model
    with in_llm(model, compressor):
        prepared = prepare(model, batch.attached_inputs, compressor)
        logits = forward(model, prepared.kwargs, question_rows(starts_of(batch)))
    return [row[: len(question)] for row, question in zip(logits, QUESTIONS, strict=True)]


@torch.no_grad()
@pytest.mark.parametrize("name", COMPRESSORS)
def test_questions_on_one_prefill_equal_complete_prompts(host: Host, name: str) -> None:
    compressor = COMPRESSORS[name]()
    batch = host.batch([5, -8], [5, -6], side="right", seed=6)
    expected = complete_logits(batch, compressor)
    for attention in ("sdpa", "eager"):
        host.model.set_attn_implementation(attention)
        for forward in (answer_logits, packed_logits):
            with case(attention, forward.__name__), recording_runs() as runs:
                found = shared_logits(batch, compressor, forward)
                assert len(runs) == 1 and len({len(tokens.index) for tokens in runs[0].last.tokens}) == 2
                for a, b in zip(found, expected, strict=True):
                    torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)
    host.model.set_attn_implementation("sdpa")
    without = shared_logits(batch, Acting(None), answer_logits)
    assert max(float((a - b).abs().max()) for a, b in zip(without, expected, strict=True)) > CONTROL
