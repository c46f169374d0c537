"""Hosts with full attention only: a bias on visual tokens in all layers of the language model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts.base.family import family_of
from tests.conformance.test_in_llm import BATCHES, difference
from tests.support.cases import case
from tests.support.hosts.bare_hosts import FULL_ATTENTION_HOSTS, Host, build
from tests.support.hosts.oracles import CONTROL, TOLERANCE
from tests.support.hosts.soft_drop import HardDrop, SoftDrop


def text_columns(host: Host, inputs: dict[str, Tensor]) -> Tensor:
    """(B, L) bool, columns of text that are not padding, from the first video of their row on."""
    visual = family_of(host.model).placeholders(host.model, inputs)
    return ~visual & inputs["attention_mask"].bool() & visual.long().cummax(-1).values.bool()


@pytest.mark.parametrize("name", FULL_ATTENTION_HOSTS)
@torch.no_grad()
def test_a_token_with_a_bias_of_minus_infinity_is_a_dropped_token(name: str) -> None:
    for attention in ("eager", "sdpa"):
        host = build(name, attention)
        for kind in ("two videos in a row", "padding on the right"):
            recipe = BATCHES[kind]
            batch = host.batch(*recipe["rows"], side=recipe.get("side", "left"))
            check(host, batch.attached_inputs, (name, attention, kind))


def check(host: Host, inputs: dict[str, Tensor], where: tuple[str, ...]) -> None:
    text = text_columns(host, inputs)
    found = {}
    for compressor in (HardDrop(), SoftDrop(), framefold.build("identity")):
        with framefold.attach(host.model, compressor, outputs="full"):
            found[type(compressor).__name__] = host.model(**inputs).logits[text]
    with case(*where):
        assert bool(text.any())
        assert difference([found["SoftDrop"]], [found["HardDrop"]]) < TOLERANCE
        assert difference([found["SoftDrop"]], [found["Identity"]]) > CONTROL, "the bias changed nothing"
