"""Adapter folders of format 1 keep loading in later versions; the files in tests/assets are never rebuilt."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import framefold
from framefold import VideoTokens
from tests.support.cases import case
from tests.support.paths import ASSETS, ROOT

V1 = ASSETS / "adapters_v1"
FOLDERS = [file.parent for file in (ROOT / "checkpoints").glob("**/config.json")]
SHIPPED = sorted(folder for folder in FOLDERS if not folder.name.startswith("tinyhost"))


def load(folder: Path, budget: float) -> framefold.Compressor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LoRA in the folder is not loaded
        return framefold.load(folder, budget=budget).eval()


def video() -> VideoTokens:
    """(6, 4, 4) tokens of width 32, computed without random numbers."""
    x = torch.arange(6 * 4 * 4 * 32, dtype=torch.float64)
    return VideoTokens.from_grid(torch.sin(x * x * 0.37).reshape(6, 4, 4, 32).float())


def test_folders_of_format_1_give_the_same_tokens() -> None:
    for name in ["fila", "fila_lora", "st_simdiff"]:
        with case(name):
            assert json.loads((V1 / name / "config.json").read_text())["framefold_format"] == 1
            expected = load_file(V1 / "expected.safetensors")
            with torch.no_grad():
                tokens = load(V1 / name, 0.2)(video()).tokens
            assert torch.equal(tokens.index, expected[f"{name}.index"])
            torch.testing.assert_close(tokens.features, expected[f"{name}.features"], rtol=1e-5, atol=1e-6)


def test_lora_of_format_1_is_loaded_into_its_host(random_host: Path) -> None:
    peft = pytest.importorskip("peft")
    from framefold.training.frozen_host.load import load_host

    # The random weights of the host, and so their digest, depend on the processor.
    model = framefold.load_peft(load_host(random_host).model, V1 / "fila_lora", allow_other_host=True)
    found = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    saved = load_file(V1 / "fila_lora" / "lora" / "adapter_model.safetensors")
    assert saved and all(torch.equal(found[name], value) for name, value in saved.items())
    assert any(value.abs().sum() > 0 for name, value in saved.items() if "lora_B" in name)


def test_shipped_adapters_load_bit_by_bit() -> None:
    assert SHIPPED
    for folder in SHIPPED:
        with case(folder):
            state, saved = load(folder, 0.05).state_dict(), load_file(folder / "model.safetensors")
            assert state.keys() == saved.keys() and all(torch.equal(state[name], saved[name]) for name in saved)
