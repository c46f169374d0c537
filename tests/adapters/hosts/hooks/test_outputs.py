"""Outputs of unusual hosts: without logits, without a loss, as tuples, dictionaries and objects."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import framefold
from tests.support.hosts import tiny_hosts as tiny
from tests.support.hosts.fused_head import FusedOutput, forward_of, fused
from tests.support.hosts.tiny_families import labels_of
from tests.support.hosts.tiny_hosts import TopNorm, single

UNIFORM = 0.25


class Pair(NamedTuple):
    logits: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    loss: Any


@pytest.fixture(scope="module")
def host() -> Any:
    return tiny.llava_onevision("sdpa")


def inputs_with_labels() -> dict[str, Any]:
    return single() | {"labels": labels_of(single())}


@pytest.mark.parametrize("outputs", ["full", "compact"])
def test_an_output_without_logits_is_left_alone(host: Any, outputs: Any) -> None:
    with framefold.attach(host, framefold.build("uniform", UNIFORM)):
        expected = host(**inputs_with_labels())
    with framefold.attach(host, framefold.build("uniform", UNIFORM), outputs=outputs):
        with forward_of(host, fused):
            out = host(**inputs_with_labels())
        with forward_of(host, lambda output, _: FusedOutput(entropy=output.logits.sum(-1))):
            alone = host(**single())
    reference = fused(expected, {"labels": labels_of(single())[:, -expected.logits.shape[1] :]})
    assert torch.equal(out.loss, expected.loss) and list(out) == ["loss", "log_probs", "entropy", "label_mask"]
    assert torch.equal(out.log_probs, reference.log_probs) and torch.equal(out.entropy, reference.entropy)
    assert list(alone) == ["entropy"] and torch.equal(alone.entropy, expected.logits.sum(-1))


def test_no_output_is_taken_for_the_loss_because_of_its_place() -> None:
    """Labels without a loss in the output, and a loss without labels."""
    host = tiny.llava_onevision("sdpa").train()
    with framefold.attach(host, TopNorm()):
        with forward_of(host, lambda output, _: FusedOutput(log_probs=output.logits[..., 0])):
            out = host(**inputs_with_labels())
            assert torch.equal(out.log_probs, host(**single()).log_probs)
        with forward_of(host, lambda output, _: FusedOutput(loss=output.logits.mean())):
            trained = host(**single()).loss
            assert torch.allclose(trained, host.eval()(**single()).loss + 1)


def test_losses_are_added_to_any_loss_that_is_a_tensor() -> None:
    host = tiny.llava_onevision("sdpa").train()
    with framefold.attach(host, TopNorm()):
        expected = host(**inputs_with_labels()).loss
        alone = expected - 1  # the loss of TopNorm is 1
        with forward_of(host, lambda output, _: Frozen(output.logits, output.loss)):
            assert torch.equal(host(**inputs_with_labels()).loss, expected)
        with forward_of(host, lambda output, _: (output.loss[None], output.logits)):  # as of one device of several
            assert torch.equal(host(**inputs_with_labels())[0], expected[None])
        with forward_of(host, lambda output, _: Frozen(output.logits, {"text": output.loss})):
            assert torch.allclose(host(**inputs_with_labels()).loss["text"], alone)


def test_full_logits_and_the_loss_are_found_in_any_container(host: Any) -> None:
    inputs = inputs_with_labels()
    with framefold.attach(host, framefold.build("uniform", UNIFORM), outputs="full"):
        full = host(**inputs)
        containers: dict[str, Callable[[Any, Any], Any]] = {
            "dictionary": lambda output, _: {"logits": output.logits, "loss": output.loss},
            "object": lambda output, _: types.SimpleNamespace(logits=output.logits, loss=output.loss),
            "named tuple": lambda output, _: Pair(output.logits, output.loss),
            "frozen data class": lambda output, _: Frozen(output.logits, output.loss),
            "tuple": lambda output, _: (output.loss, output.logits),
            "tuple without a loss": lambda output, _: (output.logits,),
            "tuple without logits": lambda output, _: (output.loss, output.logits[:, :-1, 0]),
        }
        for name, container in containers.items():
            with forward_of(host, container):
                out = host(**inputs)
            parts = out.values() if isinstance(out, dict) else out if isinstance(out, tuple) else vars(out).values()
            values = [part for part in parts if isinstance(part, Tensor)]
            longest = max(values, key=lambda value: value.ndim)
            if name != "tuple without logits":
                assert torch.equal(longest, full.logits), name
            if name != "tuple without a loss":
                assert any(value.ndim == 0 and torch.equal(value, full.loss) for value in values), name


def test_tuples_have_the_values_and_the_order_of_the_bare_host(host: Any) -> None:
    for more in ({}, {"output_hidden_states": True}, {"use_cache": False, "output_attentions": True}):
        for inputs in (single(), inputs_with_labels()):
            bare = host(**inputs, **more, return_dict=False)
            for outputs in ("full", "compact"):
                with framefold.attach(host, framefold.build("identity"), outputs=outputs):
                    found = host(**inputs, **more, return_dict=False)
                assert isinstance(found, tuple) and [type(x) for x in found] == [type(x) for x in bare], (more, outputs)
                places = zip(found, bare, strict=True)
                assert all(torch.equal(a, b) for a, b in places if isinstance(b, Tensor)), (more, outputs)


def test_a_cache_that_is_passed_but_not_returned_is_continued(host: Any) -> None:
    from transformers import DynamicCache

    ids = torch.tensor([[5]])
    with framefold.attach(host, framefold.build("uniform", UNIFORM)):
        expected = host(input_ids=ids, past_key_values=host(**single(), use_cache=True).past_key_values).logits
        cache = DynamicCache(config=host.config.get_text_config())
        with forward_of(host, lambda output, _: FusedOutput(entropy=output.logits)):
            host(**single(), past_key_values=cache, use_cache=True)
        assert torch.equal(host(input_ids=ids, past_key_values=cache).logits, expected)
