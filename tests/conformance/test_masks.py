"""A host that builds its attention mask twice (as Molmo 2) is caught by the reference, and a family can declare it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers.masking_utils import create_causal_mask

import framefold
from framefold.adapters.hosts.base.family import family_of
from tests.support.hosts.bare_hosts import AboveMean, Batch, Host, build
from tests.support.hosts.oracles import CONTROL, TOLERANCE, max_difference, run_short, shorten


@contextmanager
def masks_built_twice(host: Host) -> Iterator[None]:
    """Pass the mask through ``create_causal_mask`` in front of the language model, which does so again."""

    def first(_: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        names = ("inputs_embeds", "attention_mask", "past_key_values", "position_ids")
        arguments = {name: kwargs.get(name) for name in names}
        return args, kwargs | {"attention_mask": create_causal_mask(config=host.language.config, **arguments)}

    handle = host.language.register_forward_pre_hook(first, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def difference(host: Host, batch: Batch) -> float:
    """Return the largest error of the logits of an attached host, each row from its last column."""
    compressor = AboveMean()
    shorts = shorten(batch, compressor)
    expected = [run_short(host, short) for short in shorts]
    with masks_built_twice(host), framefold.attach(host.model, compressor), torch.no_grad():
        logits = host.model(**batch.attached_inputs, use_cache=False).logits
    return max_difference([row[-len(right) :] for row, right in zip(logits, expected, strict=True)], expected)


@pytest.mark.parametrize("name", ["llava_onevision", "internvl"])
def test_a_mask_of_ones_is_not_enough_for_a_host_that_builds_it_twice(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = build(name)
    one, two = host.batch([5, -6, 6]), host.batch([5, -6, 6], [9, -4, 3])
    assert difference(host, one) > CONTROL  # so the reference of the conformance tests catches it
    monkeypatch.setattr(type(family_of(host.model)), "builds_mask_twice", True)
    assert difference(host, one) < TOLERANCE and difference(host, two) < TOLERANCE
    with masks_built_twice(host), framefold.attach(host.model, AboveMean()):
        inputs = one.attached_inputs
        tokens = [host.model.generate(**inputs, max_new_tokens=3, use_cache=cache) for cache in (True, False)]
        longer = one.with_tokens(tokens[0][:, -3:-1]).attached_inputs
        again = host.model(**longer).logits[:, -3:].argmax(-1)
    assert torch.equal(*tokens) and torch.equal(tokens[0][:, -3:], again)
