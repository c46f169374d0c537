"""Settings of the weights of a host: what transformers is asked for, and what is refused before it is asked."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils import import_utils

from framefold.__main__ import main
from framefold.adapters.hosts.base.family import family_of
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError, MissingExtraError
from framefold.training.frozen_host.batch import encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.memory.host_weights import HostWeights
from framefold.training.module import CompressorModule
from framefold.training.start import run_device
from tests.support.hosts import bare_hosts
from tests.support.hosts.tiny_families import HOSTS

GPU, CPU = torch.device("cuda", 1), torch.device("cpu")


@pytest.fixture
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bitsandbytes appear to be installed."""
    version = importlib.metadata.version
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.49.0" if name == "bitsandbytes" else version(name)
    )


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", None, "auto"),
        ("auto", CPU, "auto"),
        ("auto", GPU, "bfloat16"),
        ("float32", GPU, "float32"),
        ("bfloat16", CPU, "bfloat16"),
    ],
)
def test_a_host_has_bfloat16_on_a_gpu_unless_told_otherwise(dtype: Any, device: Any, expected: str) -> None:
    assert HostWeights(dtype).arguments("qwen2_vl", device) == {"dtype": expected}


def test_the_attention_of_a_host_is_the_one_that_was_asked_for(random_host: Path) -> None:
    for attention in ("eager", "sdpa"):
        host = load_host(random_host, weights=HostWeights(attention=attention))
        assert host.model.get_decoder().config._attn_implementation == attention
    module = CompressorModule(host=str(random_host), attention="eager")
    module.configure_model()
    assert module.model.get_decoder().config._attn_implementation == "eager"


@pytest.mark.parametrize("version", [2, 3])
def test_flash_attention_is_passed_on_where_it_is_installed(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name: Any = f"flash_attention_{version}"
    with pytest.raises(MissingExtraError, match=f"{name} needs a GPU and the package flash-attn"):
        HostWeights(attention=name).arguments("qwen2_vl", GPU)
    monkeypatch.setattr(import_utils, f"is_flash_attn_{version}_available", lambda: True)
    assert HostWeights(attention=name).arguments("qwen2_vl", GPU)["attn_implementation"] == name


def test_four_bits_without_bitsandbytes_name_the_extra(random_host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingExtraError, match="bitsandbytes is not installed .extra 'quantized'"):
        load_host(random_host, weights=HostWeights(bits=4), device=GPU)
    words = ["fit", "--config", "compressor/fila", "--config", "trainer/cpu", "--model.host", str(random_host)]
    assert main([*words, "--model.host_bits", "4", "--trainer.max_steps", "1"]) == 2
    assert "extra 'quantized'" in capsys.readouterr().err


def test_transformers_gets_the_configuration_of_bitsandbytes(
    random_host: Path, bitsandbytes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(folder: Any, **arguments: Any) -> Any:
        asked.update(arguments)
        raise OSError("far enough")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", from_pretrained)
    with pytest.raises(Exception, match="far enough"):
        load_host(random_host, weights=HostWeights(bits=4), device=GPU)
    config = asked["quantization_config"]
    assert isinstance(config, BitsAndBytesConfig) and config.load_in_4bit and config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16 and config.bnb_4bit_use_double_quant
    assert asked["device_map"] == {"": GPU} and asked["dtype"] == "bfloat16" and asked["local_files_only"]


@pytest.mark.parametrize("family", HOSTS)
def test_four_bits_are_for_the_language_model_only(family: str, bitsandbytes: None) -> None:
    model = bare_hosts.build(family).model
    skipped = HostWeights(bits=4).arguments(family, GPU)["quantization_config"].llm_int8_skip_modules
    language = set(family_of(model).language_model(model).modules())
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    converted = {name for name in linear if should_convert_module(name, skipped)}
    assert converted == {name for name, module in linear.items() if module in language}
    assert 0 < len(converted) < len(linear)


def test_what_four_bits_cannot_do_is_refused(random_host: Path, bitsandbytes: None) -> None:
    four = HostWeights(bits=4)
    with pytest.raises(ConfigError, match="needs a GPU"):
        four.arguments("qwen2_vl", CPU)
    sharded: Any = SimpleNamespace(strategy=SimpleNamespace(zero_stage_3=True, root_device=GPU))
    with pytest.raises(ConfigError, match="cannot shard a host in 4 bits"):
        run_device(sharded, four)
    assert run_device(sharded, HostWeights()) == GPU
    with pytest.raises(ConfigError, match="init_from_host"):
        CompressorModule(host=str(random_host), init_from_host=True, host_bits=4)
    with pytest.raises(ConfigError, match="host_bits must be 4"):
        HostWeights(bits=8)  # type: ignore[arg-type]


def test_training_encodes_videos_in_chunks(random_host: Path) -> None:
    samples = [Recipe((16, 20)).sample(i) for i in range(2)]
    features = []
    for chunk in (None, 3):
        module = CompressorModule(host=str(random_host), vision_chunk=chunk)
        module.configure_model()
        taken: list[int] = []
        tower = module.model.base_model.vision_tower
        tower.register_forward_pre_hook(lambda _, args, taken=taken: taken.append(len(args[0])))
        features.append([clip.features for clip in encode_batch(module.host, samples).encoded])
        assert max(taken) == (3 if chunk else max(len(sample.frames) for sample in samples))
    assert all(map(torch.equal, *features))
    with pytest.raises(ConfigError, match="vision_chunk must be at least 1"):
        CompressorModule(host=str(random_host), vision_chunk=0)
