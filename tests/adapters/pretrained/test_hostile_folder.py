"""What a careless caller passes and what a malicious adapter folder holds: typed errors, no code, no memory taken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.fila import FiLA
from framefold.adapters.pretrained import folder
from framefold.errors import AdapterFileError, ConfigError, ContractError, InputError, UnknownCompressorError


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    framefold.build("fila", 0.2, dim=8, grid=[2, 3]).save_pretrained(tmp_path)
    return tmp_path


def edit(adapter: Path, **changes: Any) -> None:
    config = json.loads((adapter / "config.json").read_text())
    (adapter / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    "budget, plain", [(np.int64(5), 5), (np.float64(0.25), 0.25), (np.float32(0.5), 0.5), (np.uint8(7), 7)]
)
def test_numbers_of_numpy_are_budgets_and_become_plain_ones(budget: Any, plain: float, tmp_path: Path) -> None:
    compressor = framefold.build("uniform", budget)
    assert compressor.budget == plain and type(compressor.budget) is type(plain)
    compressor.save_pretrained(tmp_path)
    assert framefold.load(tmp_path).budget == plain


def test_numbers_of_numpy_are_parameters() -> None:
    assert framefold.build("pool", 3, spatial=np.int64(2)).params() == {"spatial": 2}
    for wrong in (np.float64(2), np.bool_(True), True):
        with pytest.raises(ConfigError, match="spatial must be int"):
            framefold.build("pool", 3, spatial=wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        {"features": np.zeros((2, 3, 4, 8))},
        {"features": [1.0]},
        {"features": torch.zeros(2, 3, 4, 8, dtype=torch.float8_e4m3fn)},
        {"features": torch.zeros(2, 3, 4, 8, dtype=torch.complex64)},
        {"times": ["a", "b"]},
        {"times": [None, None]},
        {"attention": np.ones(24)},
        {"attention": torch.ones(4, 3, 2)},  # as many values, in another order
        {"attention": torch.ones(24, 1)},
        {"attention": torch.full((24,), torch.nan)},
    ],
)
def test_videos_of_wrong_companions(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        VideoTokens.from_grid(**{"features": torch.zeros(2, 3, 4, 8), **arguments})


@pytest.mark.parametrize("query", ["what colour?", None, torch.ones(2, 8, dtype=torch.long)])
def test_a_query_that_is_no_embedding(query: Any) -> None:
    compressor = framefold.build("uniform")
    compressor.query_aware = True  # type: ignore[misc]
    with pytest.raises(InputError, match="query"):
        compressor(VideoTokens.from_grid(torch.zeros(2, 3, 4, 8)), query)


@pytest.mark.parametrize("name", [3, None, ".", ".x", "..adapters.X", "os.", "", "x" * 10_000])
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(UnknownCompressorError) as caught:
        framefold.build(name)
    assert len(str(caught.value)) < 400


def test_assign_of_another_length_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor = framefold.build("uniform", 3)
    honest = compressor.compress

    def short(*args: Any) -> VideoTokens:
        out = honest(*args)
        object.__setattr__(out, "assign", out.assign[:-1])
        return out

    monkeypatch.setattr(compressor, "compress", short)
    with pytest.raises(ContractError, match="assign"):
        compressor(VideoTokens.from_grid(torch.zeros(2, 3, 4, 8)))


@pytest.mark.parametrize(
    "changes",
    [
        {"framefold_format": True},
        {"framefold_format": 0},
        {"framefold_format": -3},
        {"budget": float("nan")},
        {"budget": True},
        {"params": {"name": "uniform"}},
        {"params": {"budget": 3}},
        {"params": {"": 3}},
        {"params": {"time_weight": 10**400}},
        {"params": {"r": 10**9, "dim": 8, "grid": [2, 3]}},  # 24 GB, if it were made
        {"params": {"r": 10**30, "dim": 8, "grid": [2, 3]}},
        {"params": {"dim": 2**62, "grid": [2**31, 2**31]}},
        {"params": {"members": "x" * 100_000}},
        {"compressor": "x" * 500_000},
        {"compressor": "framefold.adapters.compressors.fila.FiLA"},
        {"padding": "x" * 2_000_000},
    ],
    ids=lambda changes: repr(changes)[:50],
)
def test_a_hostile_config_is_refused_in_a_short_message(adapter: Path, changes: dict[str, Any]) -> None:
    edit(adapter, **changes)
    with pytest.raises(AdapterFileError, match=r"config\.json") as caught:
        framefold.load(adapter)
    assert len(str(caught.value)) < 1500


def test_a_deeply_nested_config_is_refused(adapter: Path) -> None:
    (adapter / "config.json").write_text('{"params": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(AdapterFileError, match="cannot be read"):
        framefold.load(adapter)


def test_a_config_that_is_no_regular_file_is_not_waited_for(adapter: Path) -> None:
    (adapter / "config.json").unlink()
    os.mkfifo(adapter / "config.json")  # opening it would wait for ever
    with pytest.raises(AdapterFileError, match="no file"):
        framefold.load(adapter)


@pytest.mark.parametrize("poison", ["nan", "bool"])
def test_weights_that_are_no_numbers_are_refused(adapter: Path, poison: str) -> None:
    state = load_file(adapter / "model.safetensors")
    bad = {key: torch.full_like(value, torch.nan) for key, value in state.items()}
    save_file(
        bad if poison == "nan" else {key: value > 0 for key, value in state.items()}, adapter / "model.safetensors"
    )
    with pytest.raises(AdapterFileError, match=r"model\.safetensors"):
        framefold.load(adapter)


def test_a_class_that_would_load_as_another_one_is_not_saved(tmp_path: Path) -> None:
    class Mine(FiLA):
        """It inherits the name."""

    with pytest.raises(ConfigError, match="name of its own"):
        Mine(0.1).save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("at", ["config", "weights"])
def test_a_disk_that_fills_up_at_either_file_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str, old: bool
) -> None:
    if old:
        framefold.build("fila", 0.2, dim=8, grid=[2, 3]).save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise (OSError(28, "No space left on device") if at == "config" else SafetensorError("No space left on device"))

    if at == "config":
        monkeypatch.setattr(Path, "write_text", full)
    else:
        monkeypatch.setattr(folder, "save_file", full)
    newer = framefold.build("fila", 0.9, dim=8, grid=[2, 3])
    with torch.no_grad():
        for parameter in newer.parameters():
            parameter.fill_(1.0)
    with pytest.raises(OSError, match="No space left") as caught:
        newer.save_pretrained(tmp_path)
    assert Path(caught.value.filename).parent == tmp_path, "the message does not say where"
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
