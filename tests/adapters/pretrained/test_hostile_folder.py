"""Adapter folders built to do harm: they are refused without running code, using memory or waiting."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import framefold
from framefold.adapters.hosts.lora.config import read_lora
from framefold.errors import AdapterFileError
from tests.support.cases import case
from tests.support.paths import ASSETS

V1 = ASSETS / "adapters_v1"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(V1 / "fila", tmp_path / "adapter"))


def config_of(adapter: Path) -> dict[str, Any]:
    return json.loads((adapter / "config.json").read_text())


def write(adapter: Path, config: Any) -> None:
    (adapter / "config.json").write_text(json.dumps(config))


def refusal(adapter: Path) -> str:
    """The message with which a folder is refused; it is one line of limited length."""
    with pytest.raises(AdapterFileError) as caught:
        framefold.load(adapter)
    text = str(caught.value)
    assert len(text) < 1500 and "\n" not in text
    return text


def test_huge_values_are_refused_in_short_messages(adapter: Path) -> None:
    config = config_of(adapter)
    for changes in (
        {"params": {"r": 10**9, "dim": 8, "grid": [2, 3]}},  # 24 GB if it were created
        {"params": {"r": 10**30, "dim": 8, "grid": [2, 3]}},
        {"params": {"dim": 2**62, "grid": [2**31, 2**31]}},
        {"params": {"members": "x" * 100_000}},
        {"compressor": "x" * 500_000},
        {"padding": "x" * 2_000_000},
    ):
        with case(repr(changes)[:60]):
            write(adapter, config | changes)
            assert "config.json" in refusal(adapter)


def test_huge_sizes_need_no_memory(adapter: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for compressor, params in (
        ("qtsplus", {"dim": 128, "heads": 4, "kv_heads": 4, "scoring_layers": 10**7}),
        ("qtsplus", {"dim": 128, "heads": 4, "kv_heads": 4, "scoring_layers": 2**20}),  # in range, but too many
        ("qtsplus", {"dim": 10**9, "scoring_layers": 64}),
        ("fila", {"dim": 10**9, "grid": [10**4, 10**4]}),
        ("fila", {"dim": 10**18, "grid": [10**18, 10**18]}),
        ("storm", {"dim": 10**12, "layers": 8}),
        ("storm", {"dim": 2**62}),
        ("+".join(["fila"] * 2000), {}),
    ):
        with case(compressor[:20], params):
            write(adapter, {"framefold_format": 1, "compressor": compressor, "budget": 0.1, "params": params})
            refusal(adapter)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


def test_deeply_nested_configs_are_refused(adapter: Path) -> None:
    config = json.dumps(config_of(adapter) | {"params": "HERE", "training": "THERE"})
    for depth in (100, 900, 100_000):
        with case(depth):
            nested = "[" * depth + "]" * depth
            text = config.replace('"HERE"', f'{{"r": {nested}}}').replace('"THERE"', f'{{"x": {nested}}}')
            (adapter / "config.json").write_text(text)
            refusal(adapter)
    assert "cannot be read" in refusal(adapter)


def test_files_of_a_terabyte_are_not_read(adapter: Path) -> None:
    with open(adapter / "model.safetensors", "r+b") as file:
        file.truncate(2**40)
    assert "model.safetensors" in refusal(adapter)
    (adapter / "config.json").unlink()
    with open(adapter / "config.json", "wb") as file:
        file.truncate(2**40)
    assert "at most" in refusal(adapter)


def test_special_files_are_refused_without_waiting(tmp_path: Path) -> None:
    """Opening a fifo would wait forever; the timeout of the suite would end it."""
    for name in ("config.json", "model.safetensors"):
        for kind in ("folder", "fifo", "device", "loop", "dangling"):
            with case(name, kind):
                file = Path(shutil.copytree(V1 / "fila", tmp_path / name / kind)) / name
                file.unlink()
                create = {
                    "folder": file.mkdir,
                    "fifo": lambda file=file: os.mkfifo(file),
                    "device": lambda file=file: file.symlink_to("/dev/zero"),
                    "loop": lambda file=file: file.symlink_to(file),
                    "dangling": lambda file=file: file.symlink_to("/nowhere/at/all"),
                }
                create[kind]()
                assert name in refusal(file.parent)


def test_weights_are_compared_with_the_config_before_they_are_read(
    adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"static": torch.zeros(300, 300), "score": torch.zeros(32)}, adapter / "model.safetensors")
    monkeypatch.setattr(
        "framefold.adapters.pretrained.weights.load_file", lambda file: pytest.fail("the file was read")
    )
    assert "'static' is (300, 300), must be" in refusal(adapter)


def test_weights_that_are_not_finite_numbers_are_refused(adapter: Path) -> None:
    state = load_file(adapter / "model.safetensors")
    for value in (float("nan"), float("inf"), -float("inf")):
        with case(value):
            score = state["score"].clone()
            score[3] = value
            save_file(state | {"score": score}, adapter / "model.safetensors")
            assert "score contains NaN or infinite" in refusal(adapter)
    save_file({key: value > 0 for key, value in state.items()}, adapter / "model.safetensors")
    assert "model.safetensors" in refusal(adapter)


def test_no_file_of_a_folder_is_imported(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even if the folder is on the import path."""
    for name in ("fila", "evil", "safetensors_torch", "config", "sitecustomize"):
        (adapter / f"{name}.py").write_text("raise SystemExit('code of an adapter folder was run')")
    monkeypatch.syspath_prepend(adapter)
    monkeypatch.chdir(adapter)
    framefold.load(adapter)
    for compressor in ("evil.Evil", "fila.FiLA"):
        write(adapter, config_of(adapter) | {"compressor": compressor})
        assert "no compressor is called" in refusal(adapter)


def test_lora_that_would_keep_peft_busy_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = Path(shutil.copytree(V1 / "fila_lora", tmp_path / "adapter"))
    file = folder / "lora" / "adapter_config.json"
    config = json.loads(file.read_text())
    for field, value, text in (
        ("target_modules", "(.*a)*b", "target_modules repeats a group"),
        ("target_modules", r"(\w+\.?)+!", "target_modules repeats a group"),
        ("exclude_modules", ".*" * 30 + "!", "exclude_modules has more than 3 repeats"),
        ("target_modules", "a?" * 40 + "a" * 40, "has more than 12 groups and optional parts"),
        ("layers_pattern", ["(a|b)+"], "layers_pattern repeats a group"),
        ("rank_pattern", {"(.+)+!": 8}, "rank_pattern repeats a group"),
        ("alpha_pattern", {"x" * 3000: 8}, "alpha_pattern has more than 2000 characters"),
        ("lora_alpha", float("inf"), "lora_alpha is inf"),
        ("lora_dropout", float("nan"), "lora_dropout is nan"),
    ):
        with case(field, str(value)[:30]):
            file.write_text(json.dumps(config | {field: value}))
            with pytest.raises(AdapterFileError) as caught:
                read_lora(folder)
            assert text in str(caught.value)
