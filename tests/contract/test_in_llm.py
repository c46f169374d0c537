"""The contract of what acts inside the language model, checked for every registered compressor that does."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.base.in_llm import InLLM, apply_decision
from framefold.adapters.core.budget import budget_tokens
from framefold.errors import BudgetError
from tests.support.cases import case
from tests.support.contract import WIDTH, features, make, question, wrap
from tests.support.videos import noise

STAGES = {"flashvid": {"stage_2": True}, "st_simdiff": {"stage_2": True}}  # parameters with which these act there
ACTING = [name for name in framefold.list_compressors() if make(name).in_llm is not None] + list(STAGES)
each = pytest.mark.parametrize("name", ACTING)
LAYERS = (4, 6, 28)
GRIDS = [(1, 1, 1), (2, 1, 1), (5, 3, 4), (3, 7, 2)]


def acting(name: str, budget: float | int, grid: tuple[int, int, int]) -> tuple[Compressor, InLLM]:
    compressor = framefold.build(name, budget, **STAGES[name]) if name in STAGES else make(name, budget, grid[1:])
    assert compressor.in_llm is not None
    return compressor, compressor.in_llm


def reduce(
    name: str, budget: float, grid: tuple[int, int, int], layers: int, received: str
) -> list[VideoTokens] | None:
    """Return the tokens that enter and those after each act; None if the budget is not possible."""
    compressor, stage = acting(name, budget, grid)
    out = compressor(wrap(features(grid)), question(compressor))
    tokens, k = out.tokens, budget_tokens(compressor.budget, math.prod(grid))
    try:
        counts = stage.counts(len(tokens), k, layers)
    except BudgetError:
        assert k < stage.smallest_budget(math.prod(grid), layers) or compressor.entering(k, math.prod(grid)) != len(
            tokens
        )
        return None
    memory, steps = stage.begin(tokens, layers, out.handover), [tokens]
    assert len(counts) == len(stage.acts(layers))
    for layer, count in zip(stage.acts(layers), counts, strict=True):
        states = noise(len(tokens), WIDTH, seed=layer)
        scores = states[:, 0].softmax(0) if received == "random" else torch.ones(len(tokens)) / len(tokens)
        video = VideoTokens(states, tokens.grid, tokens.index, tokens.size, tokens.assign, tokens.times)
        before = copy.deepcopy(video)
        decision = stage.decide(video, scores if stage.reads else None, layer, count, memory)
        assert decision.rows.dtype == torch.int64
        assert torch.equal(video.features, before.features) and torch.equal(video.index, before.index)
        if compressor.exact_budget and stage.binding:
            assert len(decision.rows) == count
        if received == "equal" and decision.group is None and stage.reads:
            assert decision.rows.tolist() == list(range(len(decision.rows))), "ties go to the lower index"
        tokens = apply_decision(video, decision)
        steps.append(tokens)
    return steps


@each
@torch.no_grad()
def test_counts_and_decisions_are_exact(name: str) -> None:
    possible = 0
    for grid, layers, budget, received in itertools.product(GRIDS, LAYERS, (0.2, 0.5, 0.7, 1.0), ("random", "equal")):
        with case(grid, layers, budget, received):
            steps = reduce(name, budget, grid, layers, received)
            if steps is None:
                continue
            possible += 1
            compressor, stage = acting(name, budget, grid)
            spans = stage.spans(layers)
            total = sum(span * len(tokens) for span, tokens in zip(spans, steps, strict=True))
            k = budget_tokens(budget, math.prod(grid))
            if compressor.exact_budget:
                slack = max(spans[1:]) if stage.binding else layers
                assert layers * k - slack < total <= layers * k
            if budget == 1.0 and compressor.exact_budget:
                assert len(steps[-1]) == math.prod(grid)
            for tokens in steps:
                assert torch.equal(tokens.assign[tokens.index], torch.arange(len(tokens)))
                assert torch.equal(torch.bincount(tokens.assign + 1, minlength=len(tokens) + 1)[1:], tokens.size)
    assert possible >= len(LAYERS) * len(GRIDS) * 2


@each
def test_a_stage_that_reads_attention_makes_its_compressor_query_aware(name: str) -> None:
    compressor, _ = acting(name, 0.25, (1, 3, 4))
    assert compressor.in_llm is not None and compressor.query_aware >= compressor.in_llm.reads
    for layers in LAYERS:
        acts = compressor.in_llm.acts(layers)
        first, last = (act + (compressor.in_llm.site == "after_attention") for act in (acts[0], acts[-1]))
        assert list(acts) == sorted(set(acts)) and first >= 1 and last < layers
        assert sum(compressor.in_llm.spans(layers)) == layers
