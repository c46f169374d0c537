"""Every command finds hosts in one way, downloads nothing, and says how to get a host that is missing."""

from __future__ import annotations

import shutil
import socket
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from framefold.__main__ import main
from framefold.errors import HostError, UnsupportedHostError
from framefold.training.frozen_host.load import load_host, load_model
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.processor import load_config, load_processor
from tests.support.paths import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VERBS = {
    "fit": ["fit", "--config", "trainer/cpu", "--model.host"],
    "validate": ["validate", "--config", "trainer/cpu", "--model.host"],
    "answer": ["answer", "--video", "x.mp4", "--question", "why ?", "--compressor", "pool", "--host"],
    "show": ["show", "--video", "x.mp4", "--out", "x.png", "--compressor", "pool", "--host"],
    "ablate": ["ablate", "--out", "x", "--host"],
    "eval": ["eval", "--compressor", "pool", "--tasks", "videomme", "--host"],
    "features": ["shards", "features", "--out", "x", "--shards", "shards", "--host"],
    "tinyhost eval": ["tinyhost", "eval", "--host"],
    "tinyhost train": ["tinyhost", "train", "--out", "x", "--config", "tinyhost/cpu", "--start"],
    "demo": ["demo", "--out", "x", "--host"],
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the Hub with the snapshot of a host, its folder; every connection fails the test."""
    snapshot = tmp_path / "cache" / "models--some--host" / "snapshots" / COMMIT
    shutil.copytree(ROOT / "checkpoints/tinyhost", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, lambda *_, **__: pytest.fail("a command used the network"))
    return snapshot


def test_every_verb_says_in_the_same_words_how_to_download_a_host_and_downloads_nothing(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["framefold"])
    assert main(["shards", "synth", "--out", "shards", "--videos", "1", "--frames", "16", "16"]) == 0
    capsys.readouterr()
    told = {}
    for verb, words in VERBS.items():
        assert main([*words, "Qwen/Qwen2.5-VL-7B"]) == 2, (verb, capsys.readouterr().err)
        told[verb] = capsys.readouterr().err.splitlines()[-1]
    assert set(told.values()) == {
        "framefold: error: the host Qwen/Qwen2.5-VL-7B is not on this machine: download it with"
        " 'hf download Qwen/Qwen2.5-VL-7B', or give the folder of a copy"
    }, told


def test_the_message_depends_on_what_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts" / "empty").mkdir(parents=True)
    (tmp_path / "file").touch()
    for name, revision, texts, absent in [
        ("user/name", "v1", ["'hf download user/name --revision v1'"], "tinyhost"),
        ("user/name@v1", None, ["'hf download user/name --revision v1'"], "tinyhost"),
        ("checkpoints/tinyhost", None, ["checkout of framefold", "'framefold tinyhost train --out "], "hf download"),
        ("hosts/mine", None, ["'framefold tinyhost train --out hosts/mine'", "'hf download hosts/mine'"], "checkout"),
        ("nowhere", None, ["no such folder", "user/name", "--out nowhere"], "hf download"),
        (str(tmp_path / "a" / "b"), None, ["no such folder", "'framefold tinyhost train"], "hf download"),
        ("hosts/empty", None, ["the folder has no config.json"], "hf download"),
        ("file", None, ["it is a file"], "hf download"),
    ]:
        with pytest.raises(HostError) as error:
            find_host(name, revision)
        assert all(text in str(error.value) for text in texts) and absent not in str(error.value), str(error.value)


def test_a_downloaded_host_is_found_by_its_id_and_revision(cache: Path) -> None:
    for name, revision in (("some/host", None), ("some/host", COMMIT), (f"some/host@{COMMIT}", None)):
        assert find_host(name, revision).folder == cache, (name, revision)
    assert load_config("some/host").model_type == "llava_onevision"


def test_a_host_with_missing_files_names_the_command_that_completes_it(cache: Path, tmp_path: Path) -> None:
    (cache / "tokenizer_config.json").write_text("{}")  # not a tinyhost
    (cache / "model.safetensors").unlink()
    (cache / "processor_config.json").unlink()
    (cache / "preprocessor_config.json").unlink()
    copy = shutil.copytree(cache, tmp_path / "copy")
    loads = load_host, load_processor, lambda host: load_model(host, "auto", torch.device("cpu"))
    for host, text in (
        ("some/host", f"'hf download some/host --revision {COMMIT}'"),
        (str(copy), "download the folder again"),
    ):
        for load in loads:
            with pytest.raises(HostError) as error:
                load(host)
            assert text in str(error.value) and "\n" not in str(error.value), str(error.value)


def test_an_adapter_given_as_host_is_called_an_adapter() -> None:
    for load in (load_host, load_config):
        with pytest.raises((HostError, UnsupportedHostError), match="is an adapter of framefold, not a host"):
            load(ROOT / "checkpoints" / "fila")
