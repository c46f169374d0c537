"""Every family: an attached host compiles where the bare host does, without further graph breaks.

Backend "eager" traces and checks guards, but compiles nothing, which no test needs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import CompileConfig

import framefold
from framefold.adapters.hosts.base.family import features_of
from tests.conformance.test_images_and_times import image_arguments, still_and_clip
from tests.support.hosts.bare_hosts import IMAGE_RUN_HOSTS, AboveMean, Host, build
from tests.support.hosts.tiny_families import HOSTS, IMAGE

NEW = 3


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it explains each graph break of the bare host
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    logger.setLevel(level)


def compiled(fullgraph: bool) -> dict[str, Any]:
    config = CompileConfig(fullgraph=fullgraph, dynamic=False, backend="eager", mode=None)  # type: ignore[arg-type]
    config._compile_all_devices = True  # type: ignore[assignment]  # the CPU too
    return {"cache_implementation": "static", "compile_config": config, "max_new_tokens": NEW}


def graphs_and_breaks() -> tuple[int, int]:
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def image_only(host: Host) -> dict[str, Any]:
    """Return a prompt with one image and no video."""
    if host.name in IMAGE_RUN_HOSTS:
        inputs = still_and_clip(host).inputs
        pixels = inputs["pixel_values"]
        image = {"pixel_values": pixels[:, :1] if host.name == "smolvlm" else pixels[:1]}
        count = host.tiny.tokens
    else:
        image = image_arguments(host)
        features = features_of(host.model, "image", image).pooler_output
        count = sum(part.shape[:-1].numel() for part in features)
    ids = torch.tensor([[5, 6, *[IMAGE] * count, 7, 8, 9]])
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **image}
    if host.tiny.reads_types:
        out["mm_token_type_ids"] = (ids == IMAGE).int()
    return out


def check_one_graph(host: Host, inputs: dict[str, Any], fullgraph: bool, graphs: int = 1) -> None:
    with framefold.attach(host.model, AboveMean()):
        expected = host.model.generate(**inputs, max_new_tokens=NEW)
        torch._dynamo.reset()
        counters.clear()
        found = host.model.generate(**inputs, **compiled(fullgraph))
    assert torch.equal(found, expected)
    assert graphs_and_breaks() == (graphs, 0), counters["graph_break"]


@pytest.mark.parametrize("name", HOSTS)
def test_compiled_decoding_is_one_graph(name: str) -> None:
    """Hosts with a window compile a second one, attached or not, as the cache of a full window is another branch."""
    host = build(name)
    batch, graphs = host.batch([5, -6, 6]), 1
    if "sliding_attention" in (getattr(host.language.config, "layer_types", None) or ()):
        host.model.generate(**batch.inputs, **compiled(True))
        graphs = graphs_and_breaks()[0]
        assert graphs == 2
    check_one_graph(host, batch.attached_inputs, fullgraph=True, graphs=graphs)


@pytest.mark.parametrize("name", ["internvl", "qwen3_vl"])
def test_compiled_decoding_of_a_prompt_with_an_image_only_is_one_graph(name: str) -> None:
    host = build(name)
    check_one_graph(host, image_only(host), fullgraph=True)


def test_the_default_mode_has_no_graph_break_and_arguments_of_framefold_do_not_matter() -> None:
    host = build("llava_onevision")
    check_one_graph(host, host.batch([5, -6, 6]).attached_inputs | {"query": None, "times": None}, fullgraph=False)


def test_compiled_decoding_continues_after_attach_and_detach() -> None:
    """Dynamo does not guard hooks, so a graph of the bare host may run in the attached one, and the reverse."""
    host = build("qwen2_5_vl")
    batch = host.batch([5, -6, 6])
    bare = host.model.generate(**batch.inputs, **compiled(True))
    with framefold.attach(host.model, AboveMean()):
        expected = host.model.generate(**batch.attached_inputs, max_new_tokens=NEW)
        assert torch.equal(host.model.generate(**batch.attached_inputs, **compiled(True)), expected)
    assert torch.equal(host.model.generate(**batch.inputs, **compiled(True)), bare)


def test_a_compiled_forward_adds_one_graph_break_to_those_of_the_bare_host() -> None:
    """Compression is not traced: where it breaks the graph depends on the values of the features.

    The bare host breaks its graph 6 times, where it compares numbers of features and placeholders.
    """
    host = build("llava_onevision")
    batch = host.batch([5, -6, 6])
    with framefold.attach(host.model, AboveMean()):
        expected = host.model(**batch.attached_inputs).logits
        found = torch.compile(host.model, backend="eager")(**batch.attached_inputs).logits
    assert torch.equal(found, expected)
    breaks = counters["graph_break"]
    assert sum(count for reason, count in breaks.items() if "_shorten" in reason) == 1
    assert all("_shorten" in reason or "`Tensor.item()`" in reason for reason in breaks), breaks
