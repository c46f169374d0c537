"""at_layer: the rule of another compressor on the states that enter a decoder layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.base.in_llm import Decision, apply_decision, group_means
from framefold.errors import ConfigError, ContractError, UnknownCompressorError
from tests.support.cases import case
from tests.support.contract import features, wrap
from tests.support.hosts.bare_hosts import build
from tests.support.hosts.in_llm import recording_runs


def test_states_are_compressed_as_features_would_be() -> None:
    video = wrap(features((6, 3, 4)))
    for rule, k in (("sttm", 20), ("sttm", 72), ("st_simdiff", 20), ("pool", 24), ("framefusion", 30)):
        with case(rule, k):
            stage = framefold.build("at_layer", rule=rule).in_llm
            assert stage is not None
            found = apply_decision(video, stage.decide(video, None, 2, k, None))
            expected = framefold.build(rule, k)(video).tokens
            assert len(found) == k and torch.equal(found.index, expected.index)
            assert torch.equal(found.assign, expected.assign) and torch.equal(found.size, expected.size)
            torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-5)


def test_whole_frames_may_be_dropped_before() -> None:
    video = wrap(features((6, 3, 4)))
    kept = video.keep(torch.cat([torch.arange(12, 24), torch.arange(48, 72)]))
    stage = framefold.build("at_layer").in_llm
    assert stage is not None
    decision = stage.decide(kept, None, 2, 9, None)
    dense = framefold.VideoTokens.from_grid(kept.features.view(3, 3, 4, -1), video.times[[1, 4, 5]])
    assert torch.equal(decision.rows, framefold.build("sttm", 9)(dense).tokens.index)


def test_what_cannot_act_there_is_refused() -> None:
    for wrong in ({"rule": "qtsplus"}, {"rule": "fastv"}, {"rule": "fila"}, {"layer": 0}):
        with case(wrong), pytest.raises(ConfigError, match="at_layer"):
            framefold.build("at_layer", **wrong)
    official = {"rule": "sttm", "rule_params": {"variant": "official"}}
    with pytest.raises(ConfigError, match="exact budget.*variant='official' of at_layer"):
        framefold.build("at_layer", **official)
    for wrong in ({"variant": "released"}, {"variant": "official", "rule": "st_simdiff"}):
        with case(wrong), pytest.raises(ConfigError, match="variant must be .*'official'"):
            framefold.build("at_layer", **wrong)
    with pytest.raises(UnknownCompressorError):
        framefold.build("at_layer", rule="no_such_rule")


def test_parameters_are_saved(tmp_path) -> None:
    params = {"variant": "exact", "rule": "st_simdiff", "rule_params": {"event_share": 0.5}, "layer": 3}
    framefold.build("at_layer", 0.5, **params).save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path)
    assert loaded.params() == params and loaded.in_llm is not None and loaded.in_llm.acts(28) == (3,)
    assert loaded.in_llm.acts(4) == (1,) and framefold.build("at_layer", layer=2).in_llm.acts(4) == (1,)


@torch.no_grad()
def test_a_host_merges_the_states_before_the_layer() -> None:
    host = build("qwen3_vl", layers=4)
    inputs = host.batch([5, -6, 6]).attached_inputs
    entering: list[Tensor] = []
    hook = host.language.layers[0].register_forward_hook(lambda _, args, out: entering.append(out))
    with framefold.attach(host.model, framefold.build("at_layer", 0.5)), recording_runs() as runs:
        out = host.model(**inputs, use_cache=True)
        step = host.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    hook.remove()
    run, cache = runs[0], out.past_key_values
    assert cache.get_seq_length(0) == inputs["input_ids"].shape[1] > cache.get_seq_length(1) == cache.get_seq_length(3)
    assert step.shape[1] == inputs["input_ids"].shape[1] + 3
    k = (4 * 18 - 36) // 3
    states = run.add_deepstack(0, entering[0])[0, run.places[0].columns]
    video = framefold.VideoTokens.from_grid(states.view(6, *host.tiny.grid, -1))
    assert same_tokens(run.last.tokens[0], framefold.build("sttm", k)(video).tokens)


@torch.no_grad()
def test_the_release_merges_the_states_by_its_thresholds_whatever_the_budget() -> None:
    host = build("qwen3_vl", layers=4)
    inputs = host.batch([5, -6, 6]).attached_inputs
    thresholds = {"tau_s": 0.2, "tau_t": 0.3, "root_level": -1}
    entering: list[Tensor] = []
    hook = host.language.layers[0].register_forward_hook(lambda _, args, out: entering.append(out))
    counts = []
    for budget in (0.9, 0.01):
        compressor = framefold.build("at_layer", budget, variant="official", rule_params=thresholds)
        assert not compressor.exact_budget and compressor.params()["variant"] == "official"
        with framefold.attach(host.model, compressor), recording_runs() as runs:
            out = host.model(**inputs, use_cache=True)
        counts.append(out.past_key_values.get_seq_length(1))
    hook.remove()
    states = runs[0].add_deepstack(0, entering[-1])[0, runs[0].places[0].columns]
    video = framefold.VideoTokens.from_grid(states.view(6, *host.tiny.grid, -1))
    expected = framefold.build("sttm", variant="official", **thresholds)(video).tokens
    assert counts[0] == counts[1] < out.past_key_values.get_seq_length(0) and len(expected) < len(video)
    assert same_tokens(runs[0].last.tokens[0], expected)


def test_weighted_means_of_groups_have_gradients() -> None:
    x, group = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 0, 1, -1, 0])
    weight = torch.tensor([0.5, 0.25, 1.0, 9.0, 0.25])
    assert torch.autograd.gradcheck(lambda x: group_means(x, group, 2, weight), (x,))
    expected = torch.stack([0.5 * x[0] + 0.25 * x[1] + 0.25 * x[4], x[2]])
    assert torch.equal(group_means(x, group, 2, weight), expected)
    video = wrap(features((5, 1, 1)))
    for wrong in (Decision(torch.tensor([0, 2]), group, weight[:4]), Decision(torch.tensor([0, 2]), None, weight)):
        with pytest.raises(ContractError, match="a weight per token"):
            apply_decision(video, wrong)


def same_tokens(found: framefold.VideoTokens, expected: framefold.VideoTokens) -> bool:
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("index", "size", "assign"))
