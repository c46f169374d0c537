"""Adapter folders that are damaged, foreign or too new end in AdapterFileError that says which file it was."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import framefold
from framefold import VideoTokens
from framefold.adapters.compressors.fila import FiLA
from framefold.adapters.compressors.uniform import Uniform
from framefold.adapters.pretrained import folder as folder_module
from framefold.errors import AdapterFileError, ConfigError


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A good folder with weights."""
    compressor = framefold.build("fila", 0.2, dim=8, grid=[2, 3])
    compressor.save_pretrained(tmp_path, base_model="some/host")
    return tmp_path


def edit(adapter: Path, **changes) -> None:
    config = json.loads((adapter / "config.json").read_text())
    config.update(changes)
    (adapter / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_the_folder(adapter: Path) -> None:
    config = json.loads((adapter / "config.json").read_text())
    assert config["framefold_format"] == 1 and config["compressor"] == "fila" and config["base_model"] == "some/host"
    assert sorted(os.listdir(adapter)) == ["config.json", "model.safetensors"]
    assert stat.S_IMODE((adapter / "model.safetensors").stat().st_mode) == 0o644
    loaded = framefold.load(adapter)
    assert isinstance(loaded, FiLA) and loaded.params()["grid"] == [2, 3]


@pytest.mark.parametrize("name", framefold.list_compressors())
def test_save_and_load_are_bit_equal(name: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    video = VideoTokens.from_grid(
        torch.randn(12, 3, 4, 16, generator=generator), attention=torch.rand(144, generator=generator)
    )
    query = torch.randn(5, 16, generator=generator)
    saved = framefold.build(name, 0.15).eval()
    saved.materialize(16, (3, 4))
    for parameter in saved.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    saved.save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path).eval()
    assert type(loaded) is type(saved) and loaded.budget == 0.15 and loaded.params() == saved.params()
    state, copy = saved.state_dict(), loaded.state_dict()
    assert list(state) == list(copy)
    for key in state:
        assert state[key].dtype == copy[key].dtype and torch.equal(state[key], copy[key]), key
    for key in ("features", "index", "size", "assign"):
        assert torch.equal(*(getattr(c(video, query).tokens, key) for c in (saved, loaded))), key
    assert framefold.load(tmp_path, budget=3).budget == 3
    assert type(saved).from_pretrained(tmp_path, budget=0.5).budget == 0.5


@pytest.mark.parametrize("name", framefold.list_compressors(trainable=True))
def test_an_adapter_saved_before_its_first_video_loads(name: str, tmp_path: Path) -> None:
    framefold.build(name).save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path)
    assert loaded.params() == framefold.build(name).params()
    assert len(loaded(VideoTokens.from_grid(torch.ones(4, 2, 3, 8)), torch.ones(1, 8)).tokens) == 6


def test_missing_folder_and_config(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="config.json"):
        framefold.load(tmp_path / "nowhere")
    with pytest.raises(AdapterFileError, match="no adapter folder"):
        framefold.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '"fila"', "\x00\xff"])
def test_config_that_is_no_json_object(adapter: Path, text: str) -> None:
    (adapter / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(AdapterFileError, match="config.json"):
        framefold.load(adapter)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"framefold_format": ...}, "framefold_format"),
        ({"framefold_format": "1"}, "framefold_format"),
        ({"framefold_format": 2}, "newer"),
        ({"compressor": ...}, "compressor"),
        ({"compressor": 3}, "compressor"),
        ({"compressor": "filla"}, "did you mean 'fila'"),
        ({"compressor": "os.path"}, "no compressor|known"),
        ({"budget": ...}, "budget"),
        ({"budget": "0.5"}, "budget"),
        ({"budget": 2.0}, "ratio"),
        ({"budget": 0}, "at least 1"),
        ({"params": ...}, "params"),
        ({"params": [1]}, "params"),
        ({"params": {"rr": 3}}, "no parameter 'rr'"),
        ({"params": {"r": "three"}}, "r must be int"),
        ({"params": {"r": -1}}, "out of range: r=-1"),
        ({"params": {"members": "all"}}, "members must be one of"),
        ({"params": {"grid": [2, 3, 4]}}, "grid must be"),
    ],
)
def test_config_with_wrong_fields(adapter: Path, changes: dict, message: str) -> None:
    edit(adapter, **changes)
    with pytest.raises(AdapterFileError, match=message):
        framefold.load(adapter)


def test_a_folder_runs_no_code(adapter: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('code of an adapter folder was run')")
    monkeypatch.syspath_prepend(tmp_path)
    edit(adapter, compressor="evil_module.Thing")
    with pytest.raises(AdapterFileError, match="no compressor is called"):
        framefold.load(adapter)


@pytest.mark.parametrize("size", [0, 4, 30, 200])
def test_truncated_weights(adapter: Path, size: int) -> None:
    file = adapter / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(AdapterFileError, match="model.safetensors"):
        framefold.load(adapter)


def test_garbage_weights(adapter: Path) -> None:
    (adapter / "model.safetensors").write_bytes(os.urandom(500))
    with pytest.raises(AdapterFileError, match="damaged"):
        framefold.load(adapter)


@pytest.mark.parametrize(
    "state",
    [
        {"static": torch.zeros(4, 1, 2, 3)},  # one missing
        {"static": torch.zeros(4, 1, 2, 3), "score": torch.zeros(8), "more": torch.zeros(1)},
        {"static": torch.zeros(4, 1, 3, 3), "score": torch.zeros(8)},  # another grid
        {},
    ],
)
def test_weights_that_do_not_fit(adapter: Path, state: dict) -> None:
    save_file(state, adapter / "model.safetensors")
    with pytest.raises(AdapterFileError, match="does not fit"):
        framefold.load(adapter)


def test_weights_of_another_method(adapter: Path) -> None:
    edit(adapter, compressor="uniform", params={})
    with pytest.raises(AdapterFileError, match="does not fit"):
        framefold.load(adapter)
    os.unlink(adapter / "model.safetensors")
    framefold.load(adapter)
    edit(adapter, compressor="fila", params={"dim": 8, "grid": [2, 3]})
    with pytest.raises(AdapterFileError, match="does not fit"):  # weights lost
        framefold.load(adapter)


def test_from_pretrained_checks_the_class(adapter: Path) -> None:
    assert isinstance(FiLA.from_pretrained(adapter), FiLA)
    with pytest.raises(AdapterFileError, match="'fila', not a Uniform"):
        Uniform.from_pretrained(adapter)


def test_saving_again_without_weights_removes_the_old_ones(adapter: Path) -> None:
    framefold.build("uniform").save_pretrained(adapter)
    assert os.listdir(adapter) == ["config.json"]
    assert isinstance(framefold.load(adapter), Uniform)


def test_a_failing_disk_leaves_the_old_folder_whole(adapter: Path, monkeypatch) -> None:
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}

    def full(*args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        framefold.build("fila", 0.9, dim=8, grid=(2, 3)).save_pretrained(adapter)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before


def test_bf16_weights_survive(tmp_path: Path) -> None:
    compressor = framefold.build("fila", 0.2, dim=8, grid=(2, 3)).to(torch.bfloat16)
    compressor.save_pretrained(tmp_path)
    out = framefold.load(tmp_path)(VideoTokens.from_grid(torch.ones(4, 2, 3, 8))).tokens
    assert torch.equal(out.features, torch.ones_like(out.features))


def test_weights_that_zero_3_has_taken_apart_are_refused(tmp_path: Path) -> None:
    compressor = framefold.build("fila", dim=4, grid=(1, 1))
    compressor.score.ds_numel, compressor.score.data = 4, torch.empty(0)
    with pytest.raises(ConfigError, match="GatheredParameters"):
        compressor.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
