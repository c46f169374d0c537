"""Numbers of tokens over the layers, and what follows from a decision about the tokens of a video."""

from __future__ import annotations

import itertools

import pytest
import torch

import framefold
from framefold.adapters.base.in_llm import (
    AttentionPruning,
    Decision,
    InLLM,
    apply_decision,
    scale_layer,
    spread_over_layers,
)
from framefold.adapters.core.budget import budget_tokens
from framefold.errors import BudgetError, ConfigError, ContractError
from tests.support.cases import case
from tests.support.contract import wrap
from tests.support.videos import noise

SPANS = [(1, 3), (2, 2), (3, 1), (2, 26), (20, 8), (1, 1, 2), (1, 2, 3, 1), (7, 7, 7, 7), (1, 1, 1, 1), (1, 9, 1, 1)]


@pytest.mark.parametrize("spans", SPANS)
def test_the_mean_over_the_layers_is_the_budget_or_less_than_a_token_below(spans: tuple[int, ...]) -> None:
    layers = sum(spans)
    for entered, k in itertools.product((1, 2, 3, 7, 20, 49), range(1, 50)):
        if k > entered:
            continue
        with case(entered, k):
            possible = layers * k >= spans[0] * entered + sum(spans[1:])  # one token in each of the later layers
            if not possible:
                with pytest.raises(
                    BudgetError, match=f"a mean of {k} tokens over {layers} layers is not possible, because all"
                ):
                    spread_over_layers(entered, k, spans)
                continue
            counts = (entered, *spread_over_layers(entered, k, spans))
            used = sum(span * count for span, count in zip(spans, counts, strict=True))
            assert layers * k - max(spans[1:]) < used <= layers * k
            assert min(counts) >= 1 and list(counts) == sorted(counts, reverse=True)


def test_one_act_leaves_what_the_budget_allows() -> None:
    for layers, seen, entered, k in ((28, 2, 1000, 100), (4, 1, 64, 20), (28, 20, 125, 100)):
        expected = (layers * k - seen * entered) // (layers - seen)
        assert spread_over_layers(entered, k, (seen, layers - seen)) == (expected,)
    assert spread_over_layers(64, 64, (1, 3)) == (64,)


def test_several_acts_keep_the_same_share_each() -> None:
    assert spread_over_layers(1024, 480, (7, 7, 7, 7)) == (512, 256, 128)  # as published: a half in each of four parts
    counts = spread_over_layers(10_000, 3000, (7, 7, 7, 7))
    shares = [after / before for before, after in itertools.pairwise((10_000, *counts))]
    assert max(shares) - min(shares) < 0.005


def test_published_layers_are_used_as_they_are_or_scaled() -> None:
    assert [scale_layer(1, layers) for layers in (24, 28, 80)] == [1, 1, 1]
    assert [scale_layer(19, layers) for layers in (2, 4, 14, 24, 28, 36)] == [0, 2, 9, 16, 19, 19]
    assert framefold.build("fastv").in_llm.acts(4) == (0,)
    assert framefold.build("fastv", layer=4).in_llm.acts(32) == (4,)
    assert framefold.build("pyramid_drop").in_llm.acts(32) == (7, 15, 23)
    assert framefold.build("pyramid_drop").in_llm.acts(3) == (0, 1)


def test_the_smallest_budget_is_possible_and_the_next_smaller_one_is_not() -> None:
    for name, layers, n in itertools.product(("fastv", "pyramid_drop"), (4, 6, 28), (1, 5, 64, 1000)):
        with case(name, layers, n):
            stage = framefold.build(name).in_llm
            smallest = stage.smallest_budget(n, layers)
            assert min(stage.counts(n, smallest, layers)) == 1
            if smallest > 1:
                with pytest.raises(BudgetError):
                    stage.counts(n, smallest - 1, layers)
    assert framefold.build("fastv").in_llm.smallest_budget(1000, 28) == 73


def test_invalid_parameters_are_refused() -> None:
    for name, params in (("fastv", {"layer": -1}), ("pyramid_drop", {"parts": 1})):
        with pytest.raises(ConfigError):
            framefold.build(name, **params)


def test_attention_pruning_keeps_the_highest_and_ties_go_to_the_lower_index() -> None:
    video = wrap(noise(1, 2, 3, 4))
    received = torch.tensor([0.1, 0.3, 0.1, 0.3, 0.1, 0.1])
    decision = AttentionPruning().decide(video, received, 0, 4, None)
    assert decision.rows.tolist() == [0, 1, 2, 3] and decision.group is None


def test_all_tokens_enter() -> None:
    for name in ("fastv", "pyramid_drop"):
        video = wrap(noise(3, 2, 2, 8))
        out = framefold.build(name, 0.6)(video)
        assert torch.equal(out.tokens.features, video.features) and out.tokens.is_dense


def pairs() -> Decision:
    return Decision(torch.tensor([0, 2]), torch.tensor([0, 0, 1, -1, 0]))


def test_a_decision_drops_and_merges_tokens() -> None:
    dense = wrap(noise(1, 2, 3, 4))
    video = dense.keep(torch.tensor([0, 1, 3, 4, 5]))
    out = apply_decision(video, pairs())
    expected = torch.stack([video.features[[0, 1, 4]].mean(0), video.features[2]])
    torch.testing.assert_close(out.features, expected)
    assert out.index.tolist() == [0, 3] and out.size.tolist() == [3, 1] and out.assign.tolist() == [0, 0, -1, 1, -1, 0]
    again = apply_decision(out, Decision(torch.tensor([0]), torch.tensor([0, 0])))
    assert again.size.tolist() == [4] and again.assign.tolist() == [0, 0, -1, 0, -1, 0]
    dropped = apply_decision(video, Decision(torch.tensor([1, 2])))
    assert torch.equal(dropped.features, video.features[1:3]) and dropped.index.tolist() == [1, 3]


def test_gradients_reach_all_members_of_a_group() -> None:
    features = noise(1, 1, 5, 4).requires_grad_()
    apply_decision(wrap(features), pairs()).features.sum().backward()
    assert features.grad is not None
    assert torch.allclose(features.grad[0, 0, :, 0], torch.tensor([1 / 3, 1 / 3, 1, 0, 1 / 3]))


WRONG = {
    "no row": Decision(torch.tensor([], dtype=torch.long)),
    "not ascending": Decision(torch.tensor([2, 1])),
    "twice": Decision(torch.tensor([1, 1])),
    "out of range": Decision(torch.tensor([0, 5])),
    "negative": Decision(torch.tensor([-1, 2])),
    "group of another length": Decision(torch.tensor([0]), torch.tensor([0, 0])),
    "group without its own row": Decision(torch.tensor([0, 2]), torch.tensor([0, 0, 0, 1, 1])),
    "group that does not exist": Decision(torch.tensor([0, 2]), torch.tensor([0, 0, 1, 2, 1])),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_decision_is_refused(name: str) -> None:
    with pytest.raises(ContractError):
        apply_decision(wrap(noise(1, 1, 5, 4)), WRONG[name])


def test_the_base_class_names_what_a_stage_must_implement() -> None:
    for call in (lambda: InLLM().acts(4), lambda: InLLM().decide(wrap(noise(1, 1, 2, 4)), None, 0, 1, None)):
        with pytest.raises(NotImplementedError, match="must implement"):
            call()


def test_a_compressor_with_a_stage_is_saved_and_loaded(tmp_path) -> None:
    for name, params in (("fastv", {"layer": 3}), ("pyramid_drop", {"parts": 2})):
        framefold.build(name, 0.6, **params).save_pretrained(tmp_path / name)
        loaded = framefold.load(tmp_path / name)
        assert loaded.params() == params and loaded.in_llm.acts(28) == framefold.build(name, **params).in_llm.acts(28)


def test_a_chain_may_end_with_a_method_that_acts_in_the_language_model() -> None:
    chain = framefold.build("storm+fastv", 0.6)
    assert chain.in_llm is not None and chain.query_aware and not chain.needs_query
    assert not [key for key in chain.state_dict() if key.startswith("in_llm")]
    video = wrap(noise(2, 2, 2, 8))
    assert len(chain(video).tokens) == 8
    for name in ("fastv+fastv", "fastv+uniform"):
        with pytest.raises(ConfigError, match="only the last stage"):
            framefold.build(name)


def test_a_chain_reduces_frames_before_the_language_model_and_tokens_inside() -> None:
    video = wrap(noise(8, 2, 2, 8))
    for budget, frames in ((0.5, 6), (8, 4), (1.0, 8)):
        chain = framefold.build("uniform+fastv", budget)
        assert chain.in_llm is not None
        assert len(chain(video).tokens) == 4 * frames == chain.entering(budget_tokens(budget, 32), 32, 4)
    both = framefold.build("uniform+st_simdiff", 8, st_simdiff={"stage_2": True})
    assert len(both(video).tokens) == 10 and both.query_aware and not both.needs_query
