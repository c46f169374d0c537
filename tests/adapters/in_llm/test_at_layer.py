"""at_layer: the rule of another compressor on the states that enter a decoder layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.base.in_llm import apply_decision
from framefold.errors import ConfigError, UnknownCompressorError
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
    with pytest.raises(ConfigError, match="exact budget"):
        framefold.build("at_layer", **official)
    with pytest.raises(UnknownCompressorError):
        framefold.build("at_layer", rule="no_such_rule")


def test_parameters_are_saved(tmp_path) -> None:
    params = {"rule": "st_simdiff", "rule_params": {"event_share": 0.5}, "layer": 3}
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


def same_tokens(found: framefold.VideoTokens, expected: framefold.VideoTokens) -> bool:
    return all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("index", "size", "assign"))
