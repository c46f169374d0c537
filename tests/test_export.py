"""Checkpoints become adapter folders; what is no checkpoint of ours is refused by name."""

import json
import os
from pathlib import Path

import pytest
import torch

import framefold
from framefold.adapters.errors import AdapterFileError
from framefold.training.export import export


def checkpoint(file: Path, **changes: object) -> framefold.Compressor:
    """Write a checkpoint as the Lightning module does, and return its compressor."""
    fila = framefold.build("fila", 0.1, members="cluster")
    fila(framefold.VideoTokens.from_grid(torch.randn(4, 4, 4, 8)))
    with torch.no_grad():
        for parameter in fila.parameters():
            parameter.normal_()
    hyper = {"compressor": "fila", "budget": 0.1, "params": fila.params(), "host": "checkpoints/tinyhost"}
    state = {f"compressor.{key}": value for key, value in fila.state_dict().items()}
    torch.save({"hyper_parameters": hyper | changes, "state_dict": state}, file)
    return fila


def test_an_exported_adapter_compresses_as_the_trained_one(tmp_path: Path) -> None:
    fila = checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path), str(tmp_path / "adapter"))
    video = framefold.VideoTokens.from_grid(torch.randn(6, 4, 4, 8))
    loaded = framefold.load(tmp_path / "adapter")
    assert torch.equal(loaded(video).tokens.features, fila(video).tokens.features)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "no checkpoint at"), (b"garbage", "is no checkpoint"), ({"params": {"r": "x"}}, "r must be int")],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: object, text: str) -> None:
    file = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        checkpoint(file, **content)
    with pytest.raises(AdapterFileError, match=text):
        export(str(file), str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter").exists()


def test_a_class_path_in_a_checkpoint_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint(tmp_path / "last.ckpt", compressor="stranger.Fila")
    with pytest.raises(AdapterFileError, match="no compressor is called"):
        export(str(tmp_path / "last.ckpt"), str(tmp_path / "adapter"))
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"hyper_parameters": Evil(), "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(AdapterFileError):
        export(str(tmp_path / "last.ckpt"), str(tmp_path / "adapter"))
    assert not (tmp_path / "owned").exists()


def test_the_newest_checkpoint_of_a_run_is_taken_and_its_host_is_noted(tmp_path: Path) -> None:
    for number, seconds in ((0, 2000), (1, 3000), (2, 1000)):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        checkpoint(folder / "last.ckpt", budget=0.1 * (number + 1))
        os.utime(folder / "last.ckpt", (seconds, seconds))
    export(str(tmp_path), str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["budget"] == 0.2 and config["base_model_name_or_path"] == "checkpoints/tinyhost"
