"""Hosts that accelerate dispatches or offloads: every family compresses as if all weights were in place."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import framefold
from framefold.adapters.hosts.base.offload import execution_device, weights_device
from tests.support.hosts.bare_hosts import ScaledMerge, build, perturb
from tests.support.hosts.tiny_families import HOSTS, labels_of
from tests.support.hosts.tiny_hosts import TopNorm

accelerate = pytest.importorskip("accelerate")
CPU = torch.device("cpu")
DISPATCHED = ["llava_onevision", "qwen3_vl", "smolvlm"]


def offload_to_cpu(model: Any) -> None:
    accelerate.cpu_offload(model, execution_device=CPU)


def offload_to_disk(model: Any) -> None:
    accelerate.disk_offload(model, tempfile.mkdtemp(dir=Path(tempfile.gettempdir())), execution_device=CPU)


def results(model: Any, inputs: dict[str, Any]) -> list[torch.Tensor]:
    return [model(**inputs).logits, model.generate(**inputs, max_new_tokens=2)]


# the bare host of gemma4 reads weights of its embeddings outside of their forward, where they are not loaded
@pytest.mark.parametrize("name", [name for name in HOSTS if name != "gemma4"])
def test_a_fresh_compressor_of_an_offloaded_host_is_made_where_the_host_computes(name: str) -> None:
    host, other = build(name), build(name)
    inputs = host.batch([5, -6, 6], [9, -4, 3]).attached_inputs
    framefold.attach(host.model, ScaledMerge())
    expected = results(host.model, inputs)
    offload_to_cpu(other.model)
    assert other.model.get_input_embeddings().weight.is_meta and execution_device(other.model) == CPU
    framefold.attach(other.model, ScaledMerge())
    assert {p.device for p in other.model.compressor.parameters()} == {CPU}
    assert all(map(torch.equal, results(other.model, inputs), expected))


@pytest.mark.parametrize("name", DISPATCHED)
def test_a_host_with_a_device_map_compresses_and_trains_as_one_without(name: str, tmp_path: Path) -> None:
    host = build(name)
    inputs = host.batch([5, -6, 6], [9, -4, 3]).attached_inputs
    host.model.save_pretrained(tmp_path)
    parts = {f"model.{part}": "cpu" for part, _ in host.model.model.named_children()}
    direct = {f"model.{part}": "cpu" for part, _ in host.model.model.named_parameters(recurse=False)}
    language = "model.text_model" if name == "smolvlm" else "model.language_model"
    devices = {**parts, **direct, "lm_head": "cpu", language: "disk"}
    other = type(host.model).from_pretrained(tmp_path, device_map=devices, offload_folder=str(tmp_path / "offload"))
    other.requires_grad_(False)
    assert other.hf_device_map[language] == "disk" and other.get_input_embeddings().weight.is_meta
    gradients = []
    for model in (host.model, other):
        framefold.attach(model, TopNorm())
        model.train()
        loss = model(**inputs, labels=labels_of(inputs)).loss
        loss.backward()
        gradients.append([loss.detach(), model.compressor.scale.grad])
    assert all(map(torch.equal, *gradients))
    assert all(map(torch.equal, results(other.eval(), inputs), results(host.model.eval(), inputs)))


@pytest.mark.parametrize("offload", [offload_to_cpu, offload_to_disk])
def test_a_host_may_be_offloaded_after_attaching(offload: Any) -> None:
    host, other = build("qwen2_5_vl"), build("qwen2_5_vl")
    inputs = host.batch([5, -6, 6]).attached_inputs
    for model in (host.model, other.model):
        framefold.attach(model, ScaledMerge())
        perturb(model.compressor)
    offload(other.model)
    assert other.model.compressor.scale.is_meta and weights_device(other.model.compressor, CPU) == CPU
    assert all(map(torch.equal, results(other.model, inputs), results(host.model, inputs)))


def test_init_from_host_reads_offloaded_layers() -> None:
    host, other = build("qwen2_5_vl"), build("qwen2_5_vl")
    offload_to_cpu(other.model)
    expected, found = framefold.build("qtsplus"), framefold.build("qtsplus")
    torch.manual_seed(0)
    copied = framefold.init_from_host(expected, host.model)
    assert copied and framefold.init_from_host(found, other.model) == copied
    assert all(torch.equal(found.get_parameter(name), expected.get_parameter(name)) for name in copied)


def test_the_question_is_embedded_where_the_host_computes() -> None:
    host, other = build("llava_onevision"), build("llava_onevision")
    offload_to_cpu(other.model)

    class Query(TopNorm):
        query_aware = True

    seen: list[Any] = []
    for model in (host.model, other.model):
        framefold.attach(model, Query())
        model.compressor.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        model(**host.batch([5, -6, 6]).inputs, query=model.get_input_embeddings()(torch.tensor([5, 6])))
    assert torch.equal(*seen)


def test_the_execution_device_without_hooks_is_that_of_the_device_map() -> None:
    with torch.device("meta"):
        model = transformers.LlavaOnevisionForConditionalGeneration(HOSTS["llava_onevision"].config())
    assert execution_device(model).type == "meta"  # a host that cannot run
    for devices, expected in (
        ({"": "disk"}, "cpu"),
        ({"model.language_model": "cpu", "lm_head": "cuda:1"}, "cuda:1"),
        ({"model.language_model.embed_tokens": "cuda:0", "model.language_model": "cuda:1"}, "cuda:0"),
        ({"model": "disk", "lm_head": "cuda:3"}, "cuda:3"),
    ):
        model.hf_device_map = devices
        assert str(execution_device(model)) == expected, devices
