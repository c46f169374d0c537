"""PEFT's ``adapter_names=``: every row of a batch uses the compressor and the LoRA of its adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import framefold
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import AboveMean, ScaledMerge, build, perturb
from tests.support.hosts.oracles import TOLERANCE
from tests.support.hosts.tiny_families import without

peft = pytest.importorskip("peft")
LAYERS = r".*language_model.*(q|v)_proj"


def with_adapters(family: str, compressor: Any, modules_to_save: Any) -> tuple[Any, Any]:
    """Return a host and its PEFT model with the adapters "one" and "two", whose weights differ."""
    host = build(family)
    framefold.attach(host.model, compressor)
    config = peft.LoraConfig(target_modules=LAYERS, modules_to_save=modules_to_save)
    model = peft.get_peft_model(host.model, config, adapter_name="one")
    model.add_adapter("two", config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".one." in name or ".two." in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return host, model.eval()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_onevision"])
def test_every_row_is_compressed_by_the_compressor_of_its_adapter(family: str) -> None:
    host, model = with_adapters(family, ScaledMerge(), ["compressor"])
    batch = host.batch([5, -6, 6], [9, -4, 3], [14], [4, -4, 3, -4, 2])
    names = ["one", "two", "one", "__base__"]
    found = model(**batch.inputs, adapter_names=names).logits
    tokens = model.generate(**batch.inputs, adapter_names=names, max_new_tokens=3)
    for row, (name, alone) in enumerate(zip(names, batch.rows_alone, strict=True)):
        model.set_adapter("one" if name == "__base__" else name)
        with model.disable_adapter() if name == "__base__" else torch.no_grad():
            logits = model(**alone.inputs).logits[0]
            expected = model.generate(**alone.inputs, max_new_tokens=3)
        assert (found[row, -3:] - logits[-3:]).abs().max() < TOLERANCE, name
        assert torch.equal(tokens[row, -3:], expected[0, -3:]), name


def test_beams_use_the_compressor_of_their_prompt() -> None:
    host, model = with_adapters("llava_onevision", ScaledMerge(), ["compressor"])
    batch = host.batch([5, -6, 6], [9, -4, 3])
    tokens = model.generate(**batch.inputs, adapter_names=["two", "one"], max_new_tokens=3, num_beams=2)
    for row, (name, alone) in enumerate(zip(["two", "one"], batch.rows_alone, strict=True)):
        model.set_adapter(name)
        assert torch.equal(tokens[row, -3:], model.generate(**alone.inputs, max_new_tokens=3, num_beams=2)[0, -3:])


def test_a_compressor_that_no_adapter_saves_serves_all_rows() -> None:
    host, model = with_adapters("llava_onevision", AboveMean(), None)
    batch = host.batch([5, -6, 6], [9, -4, 3])
    found = model(**batch.inputs, adapter_names=["one", "two"]).logits
    model.set_adapter("two")
    assert (found[1, -3:] - model(**batch.rows_alone[1].inputs).logits[0, -3:]).abs().max() < TOLERANCE


def test_a_wrong_number_of_names_is_refused() -> None:
    host, model = with_adapters("llava_onevision", perturb(ScaledMerge()), ["compressor"])
    batch = host.batch([5, -6, 6], [9, -4, 3])
    with pytest.raises(InputError, match="one name for each of the 2 prompts, got 3"):
        model(**batch.inputs, adapter_names=["one", "two", "one"])
    text = without(host.batch([5], [6]).inputs, "clips")
    assert model(**text, adapter_names=["one", "two"]).logits.shape[0] == 2
