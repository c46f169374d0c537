"""ServingSettings of a server: read from the configuration of the host, checked before weights are loaded."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.core.registry import list_compressors
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.compression import VideoCompression
from framefold.adapters.serving.vllm.plugin import ARCHITECTURES, architecture_of
from framefold.adapters.serving.vllm.settings import ServingSettings
from framefold.errors import (
    AdapterFileError,
    BudgetError,
    ConfigError,
    ContractError,
    FramefoldError,
    ServingError,
    UnknownCompressorError,
    WrongHostError,
)
from tests.support.serving.fake_engine import install_fake_engine

WIDTH = 64


@pytest.fixture(autouse=True)
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_engine(monkeypatch)


def engine_config(model_type: str, settings: Any, **more: Any) -> Any:
    """Return what the engine passes to the configuration of an architecture."""
    text = SimpleNamespace(
        hidden_size=WIDTH, num_attention_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 1e4}
    )
    config = SimpleNamespace(
        model_type=model_type,
        architectures=[architecture_of(model_type)],
        framefold=settings,
        get_text_config=lambda: text,
    )
    media = SimpleNamespace(video_pruning_rate=None, enable_mm_embeds=False, mm_encoder_tp_mode="weights")
    return SimpleNamespace(
        **{"hf_config": config, "multimodal_config": media, "model": "somebody/host", "dtype": torch.bfloat16} | more
    )


def configure(config: Any) -> None:
    ARCHITECTURES[config.hf_config.architectures[0]].verify_and_update_model_config(config)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Folder of a trained adapter of width 64."""
    compressor = framefold.build("storm", budget=0.5)
    compressor.materialize(WIDTH, (4, 4))
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter.add_(1)
    compressor.save_pretrained(tmp_path / "storm")
    return tmp_path / "storm"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    {
        "nothing": (None, ConfigError, "does not know what to compress with: pass --hf-overrides"),
        "no compressor": ({"budget": 0.25}, ConfigError, "either an adapter or a compressor"),
        "both": ({"adapter": "a", "compressor": "sttm"}, ConfigError, "either an adapter or a compressor"),
        "unknown entry": ({"compressor": "sttm", "budgets": 1}, ConfigError, "'budgets'; did you mean 'budget'"),
        "wrong type": ({"compressor": ["sttm"]}, ConfigError, "compressor must be str"),
        "unknown compressor": ({"compressor": "stm"}, UnknownCompressorError, "did you mean 'sttm'"),
        "class path": ({"compressor": "framefold.Selector"}, UnknownCompressorError, "no compressor is called"),
        "unknown parameter": ({"compressor": "sttm", "params": {"tau": 1}}, ConfigError, "tau"),
        "parameters of an adapter": ({"adapter": "a", "params": {"r": 1}}, ConfigError, "has its own parameters"),
        "positions": ({"compressor": "sttm", "positions": "kept"}, ConfigError, "preserve.*compact.*'kept'"),
        "ratio over 1": ({"compressor": "sttm", "budget": 1.5}, BudgetError, r"ratio must be in \(0, 1\]"),
        "no tokens": ({"compressor": "sttm", "budget": 0}, BudgetError, "at least 1"),
        "budget of a wrong type": ({"compressor": "sttm", "budget": "much"}, BudgetError, "must be a ratio"),
        "predicted budget": ({"compressor": "qtsplus", "budget": "auto"}, ServingError, "before it encodes"),
        "no exact number": (
            {"compressor": "sttm", "params": {"variant": "official"}}, ServingError, "not keep an exact number",
        ),
        "attention of the encoder": ({"compressor": "visionzip"}, ServingError, "needs the attention of the vision"),
        "inside the language model": ({"compressor": "pyramid_drop"}, ServingError, "inside the language model"),
        "no such folder": ({"adapter": "./missing"}, AdapterFileError, "not an adapter folder"),
    }.values(),
)  # fmt: skip
def test_what_cannot_be_served_is_refused_when_the_server_is_configured(
    settings: Any, error: type[FramefoldError], message: str
) -> None:
    config = engine_config("qwen3_vl", settings)
    before = copy.copy(vars(config.multimodal_config))
    with pytest.raises(error, match=message):
        configure(config)
    assert vars(config.multimodal_config) == before and config.hf_config.framefold == settings


@pytest.mark.parametrize(
    ("name", "positions", "message"),
    [
        ("qwen3_vl", "compact", "positions='compact': qwen3_vl is served with 'preserve' only"),
        ("qwen3_vl", "all_axes", "qwen3_vl is served with 'preserve' only"),
        ("qwen2_5_vl", "compact", "qwen2_5_vl is served with 'preserve' or 'all_axes' only"),
        ("llava_onevision", "all_axes", "the positions of llava_onevision have one axis"),
        ("llava_onevision", "preserve", "need plain rotary positions, this host has 'yarn'"),
    ],
)
def test_positions_that_a_host_cannot_have_are_refused(name: str, positions: str, message: str) -> None:
    rope = {"rope_type": "yarn"}
    config = engine_config(name, {"compressor": "sttm", "positions": positions})
    config.hf_config.get_text_config().rope_parameters.update(rope)
    with pytest.raises(ServingError, match=message):
        configure(config)


def test_a_query_aware_compressor_makes_requests_name_the_question() -> None:
    config = engine_config("llava_onevision", {"compressor": "qtsplus", "budget": 0.1})
    configure(config)
    assert config.hf_config.framefold["reads_question"] is True
    config = engine_config("llava_onevision", {"compressor": "sttm", "reads_question": True})
    configure(config)  # what the settings say does not matter
    assert "reads_question" not in config.hf_config.framefold


def test_hosts_with_one_axis_get_gaps_through_three_equal_axes() -> None:
    config = engine_config("llava_onevision", {"compressor": "sttm"})
    configure(config)
    rope = config.hf_config.get_text_config().rope_parameters
    assert rope["rope_theta"] == 1e4 and sum(rope["mrope_section"]) == WIDTH // 2 // 2
    compact = engine_config("llava_onevision", {"compressor": "sttm", "positions": "compact"})
    configure(compact)
    assert "mrope_section" not in compact.hf_config.get_text_config().rope_parameters


def test_the_configuration_names_folder_and_budget_for_all_processes(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapter.parent)
    config = engine_config("qwen3_vl", {"adapter": "./storm"})
    configure(config)
    assert config.hf_config.framefold == {
        "adapter": str(adapter), "budget": 0.5, "positions": "preserve", "allow_other_host": False,
    }  # fmt: skip
    assert config.multimodal_config.video_pruning_rate
    monkeypatch.chdir("/")
    json.dumps(config.hf_config.framefold)
    again = ServingSettings.of(config.hf_config)
    assert again.resolved()[0] == again and again.load().budget == 0.5
    configure(config)
    assert ServingSettings.of(config.hf_config) == again


@pytest.mark.parametrize(("budget", "tokens"), [(0.25, 24), (0.1, 10), (7, 7), (500, 96), (1.0, 96)])
def test_the_prompt_has_as_many_tokens_as_attach_keeps(budget: float | int, tokens: int) -> None:
    settings, compressor = ServingSettings.from_dict({"compressor": "sttm", "budget": budget}).resolved()
    assert settings.count(24, 4) == settings.count(24, 4, 0.5) == tokens
    kept = compressor(framefold.VideoTokens.from_grid(torch.randn(4, 4, 6, 8))).tokens
    assert len(kept) == tokens


def test_adapters_are_loaded_as_saved_though_the_engine_builds_models_in_bfloat16(adapter: Path) -> None:
    settings = ServingSettings.from_dict({"adapter": str(adapter)})
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            compressor = settings.load()
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    saved = framefold.load(adapter).state_dict()
    assert saved and all(torch.equal(saved[name], value) for name, value in compressor.state_dict().items())
    assert not compressor.training and not any(parameter.requires_grad for parameter in compressor.parameters())


def test_an_adapter_of_another_host_is_refused_unless_the_settings_allow_it(adapter: Path) -> None:
    fields = json.loads((adapter / "config.json").read_text()) | {"host": "qwen2_5_vl"}
    (adapter / "config.json").write_text(json.dumps(fields))
    with pytest.raises(WrongHostError, match=r"'qwen2_5_vl' host, this is 'qwen3_vl'.*allow_other_host"):
        configure(engine_config("qwen3_vl", {"adapter": str(adapter)}))
    configure(engine_config("qwen2_5_vl", {"adapter": str(adapter)}))
    configure(engine_config("qwen3_vl", {"adapter": str(adapter), "allow_other_host": True}))


def test_an_engine_that_was_not_tested_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake_engine(monkeypatch, "0.35.0")
    with pytest.raises(ServingError, match="this is 0.35.0"):
        configure(engine_config("qwen3_vl", {"compressor": "sttm"}))


def test_an_adapter_with_lora_is_not_served_without_it(adapter: Path) -> None:
    fields = json.loads((adapter / "config.json").read_text()) | {"lora": True}
    (adapter / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ServingError, match=r"LoRA weights.*export --merge"):
        configure(engine_config("qwen3_vl", {"adapter": str(adapter)}))


def test_a_host_of_another_type_than_the_architecture_is_refused() -> None:
    config = engine_config("qwen3_vl", {"compressor": "sttm"})
    config.hf_config.model_type = "qwen2_5_vl"
    with pytest.raises(ServingError, match="FramefoldQwen3VL serves hosts of type qwen3_vl, this is 'qwen2_5_vl'"):
        configure(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multimodal_config": None}, "nothing to compress"),
        ({"enable_mm_embeds": True}, "--enable-mm-embeds"),
        ({"mm_encoder_tp_mode": "data"}, "--mm-encoder-tp-mode data"),
    ],
)
def test_ways_to_pass_media_that_are_not_compressed_are_refused(change: dict[str, Any], message: str) -> None:
    config = engine_config("qwen3_vl", {"compressor": "sttm"})
    if "multimodal_config" in change:
        config.multimodal_config = None
    else:
        vars(config.multimodal_config).update(change)
    with pytest.raises(ServingError, match=message):
        configure(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speculative_config": object()}, "speculative decoding"),
        ({"parallel_config": SimpleNamespace(pipeline_parallel_size=2)}, "pipeline parallelism"),
        ({"kv_transfer_config": object()}, "shared KV store"),
        ({"ec_transfer_config": object()}, "separate or shared encoder"),
    ],
)
def test_untested_ways_to_run_the_engine_are_refused(change: dict[str, Any], message: str) -> None:
    configuration = ARCHITECTURES["FramefoldQwen3VL"]
    configuration.verify_and_update_config(SimpleNamespace(parallel_config=None))
    with pytest.raises(ServingError, match=message):
        configuration.verify_and_update_config(SimpleNamespace(**change))


class Model(VideoCompression, torch.nn.Linear):
    """A model of the engine."""


def held(settings: dict[str, Any], width: int = WIDTH) -> Model:
    config = engine_config("qwen3_vl", settings)
    configure(config)
    config.hf_config.get_text_config().hidden_size = width
    model = Model(2, 2)
    model.hold_compressor(SimpleNamespace(model_config=config))
    return model


def test_the_compressor_is_no_part_of_the_model(adapter: Path) -> None:
    model = held({"adapter": str(adapter)})
    assert model.framefold_compressor.name == "storm" and list(model.state_dict()) == ["weight", "bias"]
    assert [name for name, _ in model.named_modules()] == [""]


@pytest.mark.parametrize("name", list_compressors())
def test_every_compressor_is_tried_though_the_engine_builds_models_in_bfloat16(name: str) -> None:
    config = engine_config("qwen3_vl", {"compressor": name, "budget": 0.25})
    try:
        configure(config)
    except ServingError as error:
        assert "cannot be served" in str(error)
        return
    model = Model(2, 2)
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            model.hold_compressor(SimpleNamespace(model_config=config))
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_adapter_of_another_width_is_refused_when_the_model_is_made(adapter: Path) -> None:
    with pytest.raises(ServingError, match=f"storm does not fit this host: .*{WIDTH}"):
        held({"adapter": str(adapter)}, width=32)


def test_another_number_of_tokens_than_the_prompt_has_is_an_error() -> None:
    model = held({"compressor": "sttm", "budget": 0.25})
    clip = Encoded.from_grid(torch.randn(4, 2, 3, WIDTH))
    tokens, (features,) = model.compress_video(clip)
    assert len(tokens) == len(features) == 6
    model.framefold_compressor.budget = 0.5
    with pytest.raises(ContractError, match="kept 12 tokens of a video, its prompt has 6"):
        model.compress_video(clip)
