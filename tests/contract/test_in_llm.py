"""The contract of what acts inside the language model, checked for every registered compressor that does."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch

import framefold
from framefold import Compressor, VideoTokens
from framefold.adapters.base.added_attention import AddedAttention
from framefold.adapters.base.in_llm import InLLM, apply_decision
from framefold.adapters.core.budget import budget_tokens
from framefold.errors import BudgetError
from tests.support.cases import case
from tests.support.contract import LANGUAGE_MODEL, WIDTH, features, make, question, wrap
from tests.support.videos import noise

STAGES = {"flashvid": {"stage_2": True}, "st_simdiff": {"stage_2": True}}  # parameters with which these act there
INSIDE = {name: stage for name in framefold.list_compressors() if (stage := make(name).in_llm) is not None}
ACTING = [name for name, stage in INSIDE.items() if stage.acts(28)] + list(STAGES)
ADDING = [name for name, stage in INSIDE.items() if stage.adds(28)]
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


@pytest.mark.parametrize("name", ADDING)
@torch.no_grad()
def test_what_adds_to_the_attention_of_text_leaves_the_budget_to_the_context(name: str) -> None:
    for layers in LAYERS:
        stage = framefold.build(name).in_llm
        assert stage is not None and isinstance(stage, AddedAttention)
        adds = stage.adds(layers)
        assert adds and list(adds) == sorted(set(adds)) and 0 <= adds[0] <= adds[-1] < layers
        assert stage.acts(layers) == stage.counts(7, 7, layers) == () and stage.smallest_budget(50, layers) == 1
    for grid, budget in itertools.product(GRIDS, (0.2, 0.5, 1.0)):
        n = math.prod(grid)
        assert make(name, budget, grid[1:]).entering(3, n) == 3


@pytest.mark.parametrize("name", ADDING)
@torch.no_grad()
def test_attention_that_is_added_depends_on_own_tokens_only(name: str) -> None:
    compressor, shape = make(name), LANGUAGE_MODEL
    stage = compressor.in_llm
    assert isinstance(stage, AddedAttention)
    out = compressor(wrap(features((5, 3, 4))), question(compressor))
    tokens = stage.begin(out.tokens, shape.layers, out.handover)
    padded = torch.cat([tokens, 100 * noise(3, WIDTH)])
    batch = torch.stack([padded, padded.flip(0), padded])
    mask = torch.zeros(batch.shape[:2], dtype=torch.bool)
    mask[0, : len(tokens)], mask[1, 3:] = True, True
    query = noise(1, shape.heads, 6, shape.head_width).expand(3, -1, -1, -1)
    before = noise(1, 6, shape.heads, shape.head_width, seed=1).expand(3, -1, -1, -1)
    for layer in stage.adds(shape.layers):
        keys, values = stage.keys_and_values(layer, batch)
        assert keys.shape == values.shape == (3, shape.kv_heads, len(padded), shape.head_width)
        after = stage.add(layer, query, before, keys, values, mask)
        assert torch.equal(after[2], before[2]) and not torch.allclose(after[0], before[0], atol=1e-3)
        torch.testing.assert_close(after[1], after[0])  # in any order of the tokens
        alone = stage.add(
            layer, query[:1], before[:1], *stage.keys_and_values(layer, tokens[None]), mask[:1, : len(tokens)]
        )
        torch.testing.assert_close(after[0], alone[0])
