"""Initialising QTSplus from the decoder layers of every host family: what is copied, and what is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.compressors.qtsplus import QTSplus
from framefold.adapters.hosts.base.family import family_of
from framefold.errors import AttachError, ConfigError
from tests.support.hosts.tiny_families import HOSTS

NORMS = {"q_norm": "input_layernorm", "kv_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


GATED = ("qwen3_5", "qwen3_5_moe")  # their projections of queries also make gates, and have no counterpart


def layers_of(model: Any) -> Any:
    """Return the layers with attention and with keys of their own."""
    layers = family_of(model).decoder_layers(model)
    return [layer for layer in layers if hasattr(layer, "self_attn") and hasattr(layer.self_attn, "k_proj")]


def host(name: str) -> Any:
    """Build a host with random norms, so that copies of them are recognised."""
    model = HOSTS[name].build()
    for layer in layers_of(model):
        for norm in {*NORMS.values(), "pre_feedforward_layernorm"}:
            if hasattr(layer, norm):
                getattr(layer, norm).weight.data.normal_(1, 0.1)
    return model


def check_copy(block: Any, layer: Any, skip: tuple[str, ...] = ()) -> None:
    for key in ("q_proj", "k_proj", "v_proj", "o_proj"):
        if key in skip or not hasattr(block, key):
            continue
        source, copied = getattr(layer.self_attn, key), getattr(block, key)
        assert torch.equal(copied.weight, source.weight), key
        if copied.bias is not None:
            bias = torch.zeros_like(copied.bias) if source.bias is None else source.bias
            assert torch.equal(copied.bias, bias), key
    offset = 1 if "Qwen3_5" in type(layer).__name__ else 0  # its norms multiply by 1 + weight
    sandwich = hasattr(layer, "pre_feedforward_layernorm")
    for key, norm in NORMS.items():
        norm = "pre_feedforward_layernorm" if sandwich and key == "ffn_norm" else norm
        if hasattr(block, key):
            assert torch.equal(getattr(block, key).weight, getattr(layer, norm).weight + offset), key


@pytest.mark.parametrize("name", HOSTS)
def test_blocks_copy_the_layers_of_every_family(name: str) -> None:
    model = host(name)
    layers = layers_of(model)
    compressor = QTSplus(0.5, scoring_layers=2, reencode_layers=len(layers) + 1)
    gated = ("q_proj",) if name in GATED else ()
    with pytest.warns(match="those of .* do not fit") if gated else contextlib.nullcontext():
        copied = framefold.init_from_host(compressor, model)
    assert (compressor.heads, compressor.kv_heads) == (4, 2)
    for block in compressor.scoring:
        check_copy(block, layers[-1], skip=gated)
    for i, block in enumerate(compressor.reencode):
        check_copy(block, layers[min(i, len(layers) - 1)], skip=("o_proj", *gated))
        assert not block.o_proj.weight.any()
    parameters = dict(compressor.named_parameters())
    kept = {
        key
        for key in parameters
        if ".ffn." in key
        or key == "time.weight"
        or key.startswith("reencode")
        and ".o_" in key
        or any(f".{part}.weight" in key for part in gated)
    }
    assert set(copied) == set(parameters) - kept


def test_initialised_blocks_start_as_the_identity_and_can_be_saved(tmp_path: Any) -> None:
    compressor = QTSplus(0.5)
    framefold.init_from_host(compressor, host("llava_onevision"))
    video = framefold.VideoTokens.from_grid(torch.randn(3, 2, 2, 32))
    question = torch.randn(4, 32)
    out = compressor.eval()(video, question).tokens
    assert torch.equal(out.features, video.features[out.index])
    compressor.save_pretrained(tmp_path)
    again = framefold.load(tmp_path).eval()(video, question).tokens
    assert torch.equal(again.index, out.index)


def test_the_official_variant_copies_all_of_attention() -> None:
    model = host("qwen2_5_vl")
    compressor = QTSplus(0.5, variant="official", reencode_layers=2)
    framefold.init_from_host(compressor, model)
    layers = layers_of(model)
    check_copy(compressor.scoring[0], layers[-1])
    for i in range(2):
        check_copy(compressor.reencode[i], layers[i])


def test_mode_dtype_and_the_host_are_unchanged() -> None:
    model = host("qwen2_vl")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compressor = QTSplus(0.5, dim=32).to(torch.bfloat16).eval()
    framefold.init_from_host(compressor, model)
    assert all(not module.training for module in compressor.modules())
    assert {p.dtype for p in compressor.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad for p in compressor.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_below_lora_are_copied() -> None:
    peft = pytest.importorskip("peft")
    model = host("qwen2_vl")
    expected = layers_of(model)[-1].self_attn.q_proj.weight.clone()
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), model)
    compressor = QTSplus(0.5)
    framefold.init_from_host(compressor, model)
    assert torch.equal(compressor.scoring[0].q_proj.weight, expected)


def test_parameters_that_do_not_fit_are_named_and_keep_their_values() -> None:
    model = host("qwen2_vl")
    layers_of(model)[0].self_attn.v_proj = torch.nn.Linear(32, 8)
    compressor = QTSplus(0.5)
    with pytest.warns(UserWarning, match=r"reencode\.0\.v_proj\.weight"):
        copied = framefold.init_from_host(compressor, model)
    assert not any("v_proj" in key for key in copied) and "reencode.0.k_proj.weight" in copied


def test_a_host_with_heads_of_another_width_is_refused() -> None:
    model = host("qwen3_vl")
    for layer in layers_of(model):
        for key in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(layer.self_attn, key, torch.nn.Linear(48, 48))
    with pytest.raises(ConfigError, match="no projection"):
        framefold.init_from_host(QTSplus(0.5), model)


@pytest.mark.parametrize("name", ["uniform", "fila"])
def test_compressors_without_such_layers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        framefold.init_from_host(framefold.build(name), host("llava_onevision"))


@pytest.mark.parametrize("owner", ["host", "compressor"])
def test_sharded_weights_are_refused(owner: str) -> None:
    model, compressor = host("qwen2_vl"), QTSplus(0.5, dim=32)
    parameter: Any = next((layers_of(model)[0] if owner == "host" else compressor).parameters())
    parameter.ds_id = 7
    with pytest.raises(AttachError, match="ZeRO-3"):
        framefold.init_from_host(compressor, model)


def test_weights_that_are_not_loaded_are_refused() -> None:
    model = host("qwen2_vl").to("meta")
    with pytest.raises(AttachError, match="meta"):
        framefold.init_from_host(QTSplus(0.5, dim=32), model)


def test_the_training_module_initialises_a_fresh_compressor(random_host: Any) -> None:
    from framefold.training.module import CompressorModule

    module = CompressorModule("qtsplus", 0.25, host=str(random_host), init_from_host=True)
    module.configure_model()
    last = layers_of(module.model)[-1]
    assert torch.equal(module.compressor.scoring[0].q_proj.weight, last.self_attn.q_proj.weight)
    assert module.hparams["params"]["heads"] == module.model.config.get_text_config().num_attention_heads
    with pytest.raises(ConfigError, match="fresh"):
        CompressorModule("qtsplus", 0.25, host=str(random_host), init_from_host=True, start="somewhere")
