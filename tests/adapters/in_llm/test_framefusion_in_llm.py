"""framefusion_in_llm against the golden file of the release, a slow reference, and the budget in a host."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import framefold
from framefold import VideoTokens
from framefold.adapters.base.in_llm import Decision, apply_decision
from framefold.errors import BudgetError, ConfigError
from tests.support.cases import case
from tests.support.contract import features, wrap
from tests.support.fusion_rule import FusionByTheRule
from tests.support.golden_cases import golden_cases
from tests.support.hosts.bare_hosts import build
from tests.support.hosts.in_llm import recording_runs
from tests.support.paths import ASSETS
from tests.support.videos import noise


def test_the_stage_decides_as_the_release_layer_by_layer() -> None:
    """Prompts with tokens that are never merged are left out: they are no part of a video here."""
    checked = 0
    with np.load(ASSETS / "golden" / "framefusion.npz") as data:
        for name, params, arrays in golden_cases(data):
            if "patch_type" not in arrays or "error" in params or "ties" in name:
                continue
            places = torch.from_numpy(arrays["patch_type"])[0]
            if bool((places < -1).any()):
                continue
            with case(name):
                check_trace(places, params, arrays)
            checked += 1
    assert checked >= 3


def check_trace(places: Tensor, params: dict, arrays: dict) -> None:
    hidden, per_frame = torch.from_numpy(arrays["hidden"])[0], int(places.max()) + 1
    real = (places >= 0).nonzero()[:, 0]
    tokens = VideoTokens.from_grid(hidden[real].reshape(-1, 1, per_frame, hidden.shape[1]))
    compressor = framefold.build(
        "framefusion_in_llm",
        float(params["cost"]),
        variant="official",
        tau=params["similarity_lower_bound"],
        least=params["ratio_lower_bound"],
    )
    stage, out = compressor.in_llm, compressor(tokens)
    assert stage is not None
    memory = stage.begin(out.tokens, 28, out.handover)
    positions, text = real, len(places) - len(real)
    for step in params["trace"]:
        attention = arrays.get(f"attention_l{step['layer']}")
        received = torch.zeros(len(tokens))
        if attention is not None:
            before = torch.cat([(places == -1).nonzero()[:, 0], positions]).sort().values
            everything = torch.from_numpy(attention).reshape(-1, attention.shape[-1]).mean(0)
            received = everything[torch.isin(before, positions)]
        decision = stage.decide(tokens, received, step["layer"], 0, memory)
        tokens, positions = apply_decision(tokens, decision), positions[decision.rows]
        assert len(tokens) + text == step["length"]
        assert (memory.state.merged, memory.state.pruned) == (step["finish_merging"], step["finish_pruning"])
        expected = torch.from_numpy(arrays[f"positions_l{step['layer']}"])
        assert torch.equal(positions, expected[torch.isin(expected, real)])
        states = torch.from_numpy(arrays[f"hidden_l{step['layer']}"])[0][torch.isin(expected, real)]
        torch.testing.assert_close(tokens.features, states, rtol=0, atol=1e-4)


def run(compressor: framefold.Compressor, video: VideoTokens, layers: int) -> list[int]:
    """Return the number of tokens in each layer, with states that drift and fixed attention."""
    stage, out = compressor.in_llm, compressor(video)
    assert stage is not None
    stage.counts(len(video), out.handover, layers)
    tokens, memory, lengths = out.tokens, stage.begin(out.tokens, layers, out.handover), [len(video)]
    for layer in stage.acts(layers):
        states = tokens.features + 0.1 * noise(len(tokens), tokens.width, seed=layer)
        seen = VideoTokens(states, tokens.grid, tokens.index, tokens.size, tokens.assign, tokens.times)
        decision: Decision = stage.decide(seen, states[:, 0].softmax(0), layer, 0, memory)
        tokens = apply_decision(seen, decision)
        lengths.append(len(tokens))
    return lengths


def test_the_mean_over_the_layers_is_exact_for_any_video_and_threshold() -> None:
    for kind, layers, threshold, least in itertools.product(
        ("drift", "random", "constant", "zeros"), (4, 6, 28), (-0.5, 0.6, 1.0), (0.0, 0.1, 1.0)
    ):
        video = wrap(features((6, 3, 4), kind))
        for budget in (0.1, 0.3, 0.6, 1.0):
            with case(kind, layers, threshold, least, budget):
                compressor = framefold.build("framefusion_in_llm", budget, tau=threshold, least=least)
                k = max(1, round(budget * 72))
                try:
                    lengths = run(compressor, video, layers)
                except BudgetError:
                    assert layers * k < 72 + layers - 1
                    continue
                assert layers * (k - 1) < sum(lengths) <= layers * k and min(lengths) >= 1
                assert lengths == sorted(lengths, reverse=True)


def test_similar_tokens_merge_and_others_are_pruned() -> None:
    still = wrap(torch.eye(4).view(1, 2, 2, 4).repeat(6, 1, 1, 1))
    stage = framefold.build("framefusion_in_llm", 0.5).in_llm
    assert stage is not None
    merging = stage.decide(still, torch.ones(24), 0, 0, stage.begin(still, 28, 12))
    assert merging.group is not None and len(merging.rows) == math.floor((28 * 12 - 24) / 27)
    other = wrap(noise(6, 2, 2, 64, seed=3))
    memory = stage.begin(other, 28, 12)
    nothing = stage.decide(other, torch.ones(24), 0, 0, memory)
    assert len(nothing.rows) == 24 and memory.state.merged and not memory.state.pruned
    received = torch.arange(24).float().roll(5)
    pruned = stage.decide(other, received, 1, 0, memory)
    assert pruned.group is None
    assert pruned.rows.tolist() == sorted(received.argsort(descending=True)[: (28 * 12 - 48) // 26].tolist())


def test_parameters_are_checked() -> None:
    for wrong in ({"variant": "paper"}, {"tau": 2.0}, {"least": -0.1}):
        with case(wrong), pytest.raises(ConfigError):
            framefold.build("framefusion_in_llm", **wrong)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["exact", "official"])
def test_a_host_merges_in_several_layers_and_then_prunes(variant: str) -> None:
    host = build("llava_onevision", layers=6)
    batch = host.batch([5, -8, 6], [9, -8, 3])
    inputs, total = batch.attached_inputs, 8 * host.tiny.tokens
    for threshold in (-1.0, 0.2, 0.9):
        compressor = framefold.build("framefusion_in_llm", 0.5, variant=variant, tau=threshold)
        with case(threshold), framefold.attach(host.model, compressor), recording_runs() as runs:
            out = host.model(**inputs, use_cache=True)
            cached = host.model.generate(**inputs, max_new_tokens=3, do_sample=False)
            anew = host.model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)
        assert torch.equal(cached, anew) and bool(torch.isfinite(out.logits).all())
        for place in runs[0].places:
            lengths = [len(place.in_layer(layer).index) for layer in range(6)]
            assert lengths[0] == total and lengths == sorted(lengths, reverse=True)
            if variant == "exact":
                assert 6 * (total // 2 - 1) < sum(lengths) <= 6 * (total // 2)


@pytest.mark.parametrize("threshold, least", [(0.6, 0.1), (0.95, 0.1), (0.2, 0.0), (-1.0, 0.1), (1.0, 0.5)])
def test_decisions_equal_those_of_the_rule(threshold: float, least: float) -> None:
    """States drift from layer to layer, so that layers merge, prune, or run out of budget."""
    for layers, budget, grid, kind in itertools.product(
        (4, 9), (0.4, 0.5, 0.8, 1.0), ((5, 2, 3), (1, 2, 2)), ("drift", "random")
    ):
        with case(layers, budget, grid, kind):
            compressor = framefold.build("framefusion_in_llm", budget, tau=threshold, least=least)
            stage, video = compressor.in_llm, wrap(features(grid, kind))
            assert stage is not None
            out = compressor(video)
            tokens, memory = out.tokens, stage.begin(out.tokens, layers, out.handover)
            rule = FusionByTheRule(layers, max(1, round(budget * len(video))), video.per_frame, threshold, least)
            for layer in stage.acts(layers):
                states = tokens.features + 0.2 * noise(len(tokens), tokens.width, seed=layer)
                received = noise(len(tokens), seed=100 + layer).softmax(0)
                seen = VideoTokens(states, tokens.grid, tokens.index, tokens.size, tokens.assign, tokens.times)
                decision = stage.decide(seen, received, layer, 0, memory)
                expected = rule.step(layer, states, tokens.index.tolist(), received.tolist())
                assert decision.rows.tolist() == list(expected)
                group = torch.full((len(seen),), -1).index_copy(0, decision.rows, torch.arange(len(decision.rows)))
                group = group if decision.group is None else decision.group
                found = [(group == row).nonzero()[:, 0].tolist() for row in range(len(expected))]
                assert found == list(expected.values())
                tokens = apply_decision(seen, decision)
