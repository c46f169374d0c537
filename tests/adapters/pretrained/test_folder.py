"""Saving and loading adapter folders; a damaged or newer folder is an AdapterFileError that names the file."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import framefold
from framefold import VideoTokens
from framefold.adapters.base.build import load_or_build
from framefold.adapters.compressors.fila import FiLA
from framefold.adapters.compressors.uniform import Uniform
from framefold.adapters.pretrained import folder as folder_module
from framefold.adapters.pretrained.config import read_config
from framefold.errors import AdapterFileError, ConfigError
from tests.support.cases import case

FULL_DISK = [OSError(28, "No space left on device"), SafetensorError("No space left on device")]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A valid folder with weights."""
    compressor = framefold.build("fila", 0.2, dim=8, grid=[2, 3])
    compressor.save_pretrained(tmp_path / "adapter", base_model="some/host")
    return tmp_path / "adapter"


def edit(adapter: Path, **changes) -> None:
    config = json.loads((adapter / "config.json").read_text())
    config.update(changes)
    (adapter / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def test_files_and_fields_of_a_folder(adapter: Path) -> None:
    config = json.loads((adapter / "config.json").read_text())
    assert config["framefold_format"] == 1 and config["compressor"] == "fila" and config["base_model"] == "some/host"
    assert sorted(os.listdir(adapter)) == ["config.json", "model.safetensors"]
    assert stat.S_IMODE((adapter / "model.safetensors").stat().st_mode) == 0o644
    loaded = framefold.load(adapter)
    assert isinstance(loaded, FiLA) and loaded.params()["grid"] == [2, 3]


@pytest.mark.parametrize("name", framefold.list_compressors())
def test_a_loaded_compressor_is_equal_bit_by_bit(name: str, tmp_path: Path) -> None:
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


def test_what_is_loaded_is_in_eval_mode_and_what_is_built_in_training_mode(tmp_path: Path) -> None:
    video = VideoTokens.from_grid(torch.randn(4, 4, 4, 16, generator=torch.Generator().manual_seed(0)))
    built = framefold.build("vision_selector", 8)
    assert built.training and len(built(video).tokens) > 8, "training sees more tokens than the budget"
    built.save_pretrained(tmp_path)
    loaded = framefold.load(tmp_path)
    for one in (loaded, type(built).from_pretrained(tmp_path), load_or_build(str(tmp_path), None)):
        assert not any(module.training for module in one.modules()) and len(one(video).tokens) == 8
    assert not load_or_build("vision_selector", 8).training and loaded.train().training


def test_an_adapter_saved_before_its_first_video_can_be_loaded(tmp_path: Path) -> None:
    for name in framefold.list_compressors(trainable=True):
        with case(name):
            framefold.build(name).save_pretrained(tmp_path)
            loaded = framefold.load(tmp_path)
            assert loaded.params() == framefold.build(name).params()
            compressed = loaded.eval()(VideoTokens.from_grid(torch.ones(4, 2, 3, 8)), torch.ones(1, 8))
            assert len(compressed.tokens) == 6


def test_a_missing_folder_or_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="config.json"):
        framefold.load(tmp_path / "nowhere")
    with pytest.raises(AdapterFileError, match="not an adapter folder"):
        framefold.load(tmp_path)


def test_a_config_that_is_not_a_json_object_is_named(adapter: Path) -> None:
    for text in ["", "{", "[1, 2]", "null", '"fila"', "\x00\xff"]:
        with case(text):
            (adapter / "config.json").write_bytes(text.encode("latin-1"))
            with pytest.raises(AdapterFileError, match="config.json"):
                framefold.load(adapter)


def test_invalid_fields_are_named(adapter: Path) -> None:
    original = (adapter / "config.json").read_text()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"framefold_format": ...}, "framefold_format"),
        ({"framefold_format": "1"}, "framefold_format"),
        ({"framefold_format": 0}, "1 or more"),
        ({"framefold_format": -3}, "1 or more"),
        ({"framefold_format": True}, "1 or more"),
        ({"framefold_format": 2}, "newer than 1: upgrade framefold"),
        ({"framefold_format": 10**30}, "newer than 1"),
        ({"compressor": ...}, "compressor"),
        ({"compressor": 3}, "compressor"),
        ({"compressor": "filla"}, "did you mean 'fila'"),
        ({"compressor": "os.system"}, "no compressor is called"),
        ({"compressor": "../fila"}, "no compressor is called"),
        ({"compressor": "framefold.adapters.compressors.fila.FiLA"}, "no compressor is called"),
        ({"budget": ...}, "budget"),
        ({"budget": "0.5"}, "budget"),
        ({"budget": True}, "budget"),
        ({"budget": 2.0}, "ratio"),
        ({"budget": 0.0}, "ratio"),
        ({"budget": float("nan")}, "ratio"),
        ({"budget": 0}, "at least 1"),
        ({"budget": -4}, "at least 1"),
        ({"budget": "auto"}, "does not predict"),
        ({"params": ...}, "params"),
        ({"params": [1]}, "params"),
        ({"params": {"rr": 3}}, "no parameter 'rr'"),
        ({"params": {"": 3}}, "no parameter ''"),
        ({"params": {"name": "uniform"}}, "no parameter 'name'"),
        ({"params": {"budget": 3}}, "no parameter 'budget'"),
        ({"params": {"r": "three"}}, "r must be int"),
        ({"params": {"r": -1}}, "out of range: r=-1"),
        ({"params": {"members": "all"}}, "members must be one of"),
        ({"params": {"grid": [2, 3, 4]}}, "grid must be"),
        ({"params": {"time_weight": 10**400}}, "time_weight must be float"),
        ({"width": 0}, "width must be 1 to"),
        ({"width": 10**12}, "width must be 1 to"),
        ({"width": True}, "'width' must be int"),
        ({"width": "32"}, "'width' must be int"),
        ({"host": 3}, "'host' must be str"),
        ({"lora": "yes"}, "'lora' must be bool"),
        ({"base_model_revision": ["main"]}, "'base_model_revision' must be str"),
        ({"training": "long"}, "'training' must be dict"),
        ({"frame_sampling": 8}, "'frame_sampling' must be dict"),
    ]
    for changes, message in cases:
        with case(changes):
            (adapter / "config.json").write_text(original)
            edit(adapter, **changes)
            with pytest.raises(AdapterFileError, match=message) as caught:
                framefold.load(adapter)
            assert "config.json" in str(caught.value)


def test_unknown_fields_are_ignored_and_kept(adapter: Path) -> None:
    before = framefold.load(adapter)
    edit(adapter, auto_map={"AutoModel": "evil.Evil"}, x=[1])
    video = VideoTokens.from_grid(torch.randn(4, 2, 3, 8, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(framefold.load(adapter)(video).tokens.features, before(video).tokens.features)
    assert read_config(adapter)["x"] == [1]


def test_a_folder_runs_no_code(adapter: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "evil_module.py").write_text("raise SystemExit('code of an adapter folder was run')")
    monkeypatch.syspath_prepend(tmp_path)
    edit(adapter, compressor="evil_module.Thing")
    with pytest.raises(AdapterFileError, match="no compressor is called"):
        framefold.load(adapter)


def test_truncated_weights_are_named(adapter: Path) -> None:
    file = adapter / "model.safetensors"
    content = file.read_bytes()
    for size in [0, 4, 30, 200]:
        with case(size):
            file.write_bytes(content[:size])
            with pytest.raises(AdapterFileError, match="model.safetensors"):
                framefold.load(adapter)


def test_weights_of_random_bytes_are_refused(adapter: Path) -> None:
    (adapter / "model.safetensors").write_bytes(os.urandom(500))
    with pytest.raises(AdapterFileError, match="damaged"):
        framefold.load(adapter)


def test_weights_that_do_not_fit(adapter: Path) -> None:
    for state in [
        {"static": torch.zeros(4, 1, 2, 3)},  # one missing
        {"static": torch.zeros(4, 1, 2, 3), "score": torch.zeros(8), "more": torch.zeros(1)},
        {"static": torch.zeros(4, 1, 3, 3), "score": torch.zeros(8)},  # another grid
        {},
    ]:
        with case(state):
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


def test_bf16_weights_are_preserved(tmp_path: Path) -> None:
    compressor = framefold.build("fila", 0.2, dim=8, grid=(2, 3)).to(torch.bfloat16)
    compressor.save_pretrained(tmp_path)
    out = framefold.load(tmp_path)(VideoTokens.from_grid(torch.ones(4, 2, 3, 8))).tokens
    assert torch.equal(out.features, torch.ones_like(out.features))


def test_weights_partitioned_by_zero_3_are_not_saved(tmp_path: Path) -> None:
    compressor = framefold.build("fila", dim=4, grid=(1, 1))
    compressor.score.ds_numel, compressor.score.data = 4, torch.empty(0)
    with pytest.raises(ConfigError, match="GatheredParameters"):
        compressor.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_adapter_that_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    class Unregistered(FiLA):
        """Inherits the name of another class."""

    with pytest.raises(ConfigError, match="must define its own name"):
        Unregistered(0.1).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ConfigError, match="width must be 1 to"):
        framefold.build("st_simdiff").save_pretrained(tmp_path / "adapter", width=-1)
    assert not (tmp_path / "adapter").exists()


def test_linked_files_are_read_and_never_written_through(adapter: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    shutil.move(adapter / "model.safetensors", blob)
    before = blob.read_bytes()
    (adapter / "model.safetensors").symlink_to(blob)
    compressor = framefold.load(adapter)  # as in the cache of huggingface_hub
    with torch.no_grad():
        compressor.score.add_(1)
    compressor.save_pretrained(adapter)
    assert blob.read_bytes() == before and not (adapter / "model.safetensors").is_symlink()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """Whether it fills up while the config or the weights are written, and whether the folder held an adapter."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise error

    for number, (at, error, old) in enumerate(itertools.product(("config", "weights"), FULL_DISK, (False, True))):
        with case(at, error, old), pytest.MonkeyPatch.context() as patch:
            folder = tmp_path / str(number)
            folder.mkdir()
            if old:
                framefold.build("fila", 0.2, dim=8, grid=[2, 3]).save_pretrained(folder)
            before = {file.name: file.read_bytes() for file in folder.iterdir()}
            patch.setattr(*((Path, "write_text") if at == "config" else (folder_module, "save_file")), full)
            newer = framefold.build("fila", 0.9, dim=8, grid=[2, 3])
            with torch.no_grad():
                for parameter in newer.parameters():
                    parameter.fill_(1.0)
            with pytest.raises(OSError, match="No space left") as caught:
                newer.save_pretrained(folder)
            assert Path(caught.value.filename).parent == folder, "the message does not name the file"
            assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
