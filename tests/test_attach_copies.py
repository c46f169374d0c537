"""An attached host can be detached, copied, pickled and saved."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

import framefold

from . import tiny_hosts as tiny
from .tiny_hosts import TopNorm, single


def snapshot(host: Any) -> tuple[Any, ...]:
    state = {name: value.clone() for name, value in host.state_dict().items()}
    return state, set(host.__dict__), list(host._modules), set(host._keys_to_ignore_on_save), host.config.to_dict()


def test_detach_leaves_no_trace() -> None:
    host = tiny.llava_onevision()
    before, generate = snapshot(host), host.generate
    handle = framefold.attach(host, TopNorm())
    assert isinstance(host.compressor, TopNorm) and not host.compressor.training and host.generate != generate
    host.generate(**single(), max_new_tokens=2)
    handle.detach()
    after = snapshot(host)
    assert after[1:] == before[1:] and host.generate == generate
    assert all(torch.equal(after[0][name], before[0][name]) for name in before[0])
    for hooks in (host._forward_hooks, host._forward_pre_hooks, host._forward_hooks_with_kwargs):
        assert not hooks
    assert not host._forward_pre_hooks_with_kwargs


def test_a_generate_that_was_set_on_the_instance_is_called_and_comes_back() -> None:
    host = tiny.llava_onevision()
    calls: list[int] = []
    original = host.generate

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["input_ids"].shape[1])
        return original(*args, **kwargs)

    host.generate = counting
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        host.generate(**single(), max_new_tokens=1)
    assert calls == [20] and host.generate is counting


def pickled(host: Any) -> Any:
    return pickle.loads(pickle.dumps(host))


@pytest.mark.parametrize("clone", [copy.deepcopy, pickled])
def test_a_copy_has_a_compressor_of_its_own(clone: Any) -> None:
    host = tiny.llava_onevision()
    framefold.attach(host, TopNorm())
    if clone is copy.deepcopy:  # transformers itself hangs hooks on a host at its first forward that no pickle takes
        host(**single())
    twin = clone(host)
    logits, tokens = host(**single()).logits, host.generate(**single(), max_new_tokens=4)
    assert torch.equal(twin(**single()).logits, logits)
    assert torch.equal(twin.generate(**single(), max_new_tokens=4), tokens)
    assert twin.generate.model is twin and twin.compressor is not host.compressor
    with torch.no_grad():
        twin.compressor.scale.mul_(-3)
    changed = twin(**single()).logits
    assert not torch.equal(changed, logits) and torch.equal(host(**single()).logits, logits)
    framefold.detach(host)
    assert torch.equal(twin(**single()).logits, changed)
    framefold.detach(twin)
    assert torch.equal(twin(**single()).logits, host(**single()).logits)
    assert not twin._forward_pre_hooks and not hasattr(twin, "compressor")


def test_the_hosts_own_checkpoint_stays_clean(tmp_path: Path) -> None:
    host = tiny.llava_onevision()
    host.save_pretrained(tmp_path / "bare")
    framefold.attach(host, TopNorm())
    host.save_pretrained(tmp_path / "attached")
    assert "compressor.scale" in host.state_dict()
    framefold.detach(host)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "bare" / file).read_bytes() == (tmp_path / "attached" / file).read_bytes()
    config = json.loads((tmp_path / "attached" / "config.json").read_text())
    assert config["architectures"] == ["LlavaOnevisionForConditionalGeneration"]
    _, report = LlavaOnevisionForConditionalGeneration.from_pretrained(tmp_path / "attached", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
