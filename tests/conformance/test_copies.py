"""Every family: an attached host can be detached without a trace, copied, pickled and saved."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from tests.support.hosts.bare_hosts import KEEPING, AboveMean, Host, ScaledMerge, build
from tests.support.hosts.tiny_families import HOSTS


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


def hooks_of(model: Any) -> dict[str, list[int]]:
    """Return the hooks of every module, by kind; transformers itself adds some at the first forward of a host."""
    return {
        f"{name}.{kind}": list(hooks)
        for name, module in model.named_modules()
        for kind, hooks in vars(module).items()
        if isinstance(hooks, dict) and "hooks" in kind and hooks
    }


def snapshot(model: Any) -> dict[str, Any]:
    attributes = {name: repr(value) for name, value in vars(model).items() if name not in ("_modules", "_parameters")}
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "attributes": attributes,
        "modules": [name for name, _ in model.named_modules()],
        "config": model.config.to_dict(),
        "hooks": hooks_of(model),
    }


def test_text_runs_as_in_a_fresh_host_after_detaching(host: Host) -> None:
    """A bare host that has processed a video keeps an offset of positions; detaching restores its value."""

    def run() -> torch.Tensor:
        ids = host.batch([9]).inputs["input_ids"]
        out = host.model(input_ids=ids, use_cache=True)
        return host.model(input_ids=ids[:, :2], past_key_values=out.past_key_values).logits

    fresh = run()
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        host.model(**host.batch([5, -6, 6]).attached_inputs)
    assert torch.equal(run(), fresh)


def test_detach_leaves_no_trace(host: Host) -> None:
    model, batch = host.model, host.batch([5, -6, 6], [9, -4, 3])
    one = host.batch([5, -6, 6])
    bare, tokens = model(**one.inputs).logits, model.generate(**one.inputs, max_new_tokens=3)
    before, generate = snapshot(model), model.generate
    options: list[tuple[Any, Any]] = [
        (KEEPING, "compact"), (AboveMean, "full"), (ScaledMerge, "compact"), (ScaledMerge, "full"),
    ]  # fmt: skip
    for make, outputs in options:
        handle = framefold.attach(model, make(), outputs=outputs)
        assert not model.compressor.training and model.generate != generate
        model(**batch.attached_inputs)
        model.generate(**batch.attached_inputs, max_new_tokens=2)
        handle.detach()
        after = snapshot(model)
        assert all(map(torch.equal, after["state"].values(), before["state"].values()))
        assert all(after[kind] == before[kind] for kind in before if kind != "state"), (make, outputs)
        assert model.generate == generate
    assert torch.equal(model(**one.inputs).logits, bare)
    assert torch.equal(model.generate(**one.inputs, max_new_tokens=3), tokens)


def test_a_generate_set_on_the_instance_is_called_and_restored(host: Host) -> None:
    calls: list[int] = []
    original, batch = host.model.generate, host.batch([5, -4, 6])

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["input_ids"].shape[1])
        return original(*args, **kwargs)

    host.model.generate = counting
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        host.model.generate(**batch.attached_inputs, max_new_tokens=1)
    dropped = 4 * host.tiny.tokens - 4 * host.tiny.tokens // 4
    assert calls == [batch.inputs["input_ids"].shape[1] - dropped] and host.model.generate is counting


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("clone", [copy.deepcopy, pickled])
def test_a_copy_has_its_own_compressor(host: Host, clone: Callable[[Any], Any]) -> None:
    model, inputs = host.model, host.batch([5, -6, 6], [9, -4, 3]).attached_inputs
    framefold.attach(model, ScaledMerge())
    if clone is copy.deepcopy:  # transformers itself adds hooks at the first forward that cannot be pickled
        model(**inputs)
    twin = clone(model)
    logits, tokens = model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)
    assert torch.equal(twin(**inputs).logits, logits)
    assert torch.equal(twin.generate(**inputs, max_new_tokens=3), tokens)
    assert twin.generate.model is twin and twin.compressor is not model.compressor
    with torch.no_grad():
        twin.compressor.scale.mul_(-3)
    changed = twin(**inputs).logits
    assert not torch.equal(changed, logits) and torch.equal(model(**inputs).logits, logits)
    framefold.detach(model)
    assert torch.equal(twin(**inputs).logits, changed)
    framefold.detach(twin)
    one = host.batch([5, -6, 6]).inputs
    assert torch.equal(twin(**one).logits, model(**one).logits)
    assert not twin._forward_pre_hooks and not hasattr(twin, "compressor")


def test_the_hosts_own_checkpoint_contains_no_compressor(host: Host, tmp_path: Path) -> None:
    model = host.model
    model.save_pretrained(tmp_path / "bare")
    framefold.attach(model, ScaledMerge())
    model.save_pretrained(tmp_path / "attached")
    assert "compressor.scale" in model.state_dict()
    framefold.detach(model)
    files = sorted(path.name for path in (tmp_path / "bare").iterdir())
    assert "model.safetensors" in files and files == sorted(path.name for path in (tmp_path / "attached").iterdir())
    for file in files:
        assert (tmp_path / "bare" / file).read_bytes() == (tmp_path / "attached" / file).read_bytes()
    config = json.loads((tmp_path / "attached" / "config.json").read_text())
    assert config["architectures"] == [type(model).__name__]
    _, report = type(model).from_pretrained(tmp_path / "attached", output_loading_info=True)
    assert not report["unexpected_keys"] and not report["missing_keys"]
