"""An adapter is attached only to the host it was trained with, unless the caller passes allow_other_host=True."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts.hooks.base_model_check import base_model_of
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.errors import WrongHostError
from framefold.files import weights_digest
from framefold.training.frozen_host.load import load_host
from framefold.training.tinyhost.build import Architecture, build_host, save_host
from tests.support.cases import case
from tests.support.paths import ASSETS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def others(random_host: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a host and of others; do not change them."""
    folder = tmp_path_factory.mktemp("hosts")
    small: Any = dict(vision_width=16, vision_layers=1, vision_heads=2, vision_ff=32, text_layers=1, text_heads=2)
    save_host(build_host(Architecture(**small, text_width=32, text_ff=32), seed=4), folder / "other weights")
    save_host(build_host(Architecture(**small, text_width=16, text_ff=32), seed=4), folder / "other width")
    copy = shutil.copytree(random_host, folder / "a copy")
    snapshot = shutil.copytree(random_host, folder / "models--some--host" / "snapshots" / COMMIT)
    return {
        "trained with": random_host,
        **{path.name: path for path in folder.iterdir()},
        "a copy": copy,
        "hub": snapshot,
    }


def adapter(folder: Path, **changes: Any) -> framefold.Compressor:
    """A compressor from a folder whose config has further fields."""
    compressor = framefold.build("st_simdiff", 0.2)
    compressor.save_pretrained(folder, **changes)
    return framefold.load(folder)


def attach(path: Path, compressor: framefold.Compressor, **options: Any) -> None:
    framefold.attach(load_host(path).model, compressor, **options).detach()


def test_an_adapter_is_refused_by_another_host(others: dict[str, Path], tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], str, str | None]] = [
        ({}, "other weights", None),
        ({"host": "llava_onevision", "width": 32}, "other weights", None),
        ({"host": "qwen2_vl"}, "trained with", "a 'qwen2_vl' host.*'llava_onevision'"),
        ({"host": "llava_onevision", "width": 32}, "other width", "width 32.*16"),
        ({"host_weights": "trained with"}, "trained with", None),
        ({"host_weights": "trained with"}, "a copy", None),
        ({"host_weights": "trained with"}, "other weights", "weights.*other weights"),
        ({"base_model_name_or_path": "some/host", "base_model_revision": "another"}, "hub", None),
        ({"base_model_name_or_path": "no/host", "base_model_revision": COMMIT}, "hub", "'no/host'.*'some/host'"),
        ({"base_model_name_or_path": "no/host"}, "hub", None),  # without a revision, it is the name of a folder
    ]
    for fields, at, text in cases:
        with case(fields, at):
            digest = (
                {"host_weights": weights_digest(others[fields["host_weights"]])} if "host_weights" in fields else {}
            )
            compressor = adapter(tmp_path, **fields | digest)
            if text is None:
                attach(others[at], compressor)
                continue
            host = load_host(others[at]).model
            with pytest.raises(WrongHostError, match=f"(?s){text}.*allow_other_host=True"):
                framefold.attach(host, compressor)
            assert not hasattr(host, "compressor")
            attach(others[at], compressor, allow_other_host=True)


def test_lora_of_another_host_is_refused_unless_allowed(random_host: Path, others: dict, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = Path(shutil.copytree(ASSETS / "adapters_v1" / "fila_lora", tmp_path / "adapter"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"host_weights": weights_digest(random_host)}))
    framefold.load_peft(load_host(random_host).model, folder)
    host = load_host(others["other weights"]).model
    before = {name: value.clone() for name, value in host.state_dict().items()}
    with pytest.raises(WrongHostError):
        framefold.load_peft(host, folder)
    after = host.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    framefold.load_peft(host, folder, allow_other_host=True)


def test_the_base_model_is_kept_when_an_adapter_is_saved_again(tmp_path: Path) -> None:
    known = {"base_model_name_or_path": "some/host", "base_model_revision": COMMIT, "host": "qwen2_vl", "width": 8}
    adapter(tmp_path / "a", **known).save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert {key: config[key] for key in known} == known
    assert framefold.load(tmp_path / "b").base_model == BaseModel("some/host", COMMIT, "qwen2_vl", 8)
    assert framefold.build("st_simdiff").base_model == BaseModel()


def test_a_host_in_the_cache_of_the_hub_is_identified_by_id_and_commit(others: dict[str, Path]) -> None:
    assert base_model_of(load_host(others["hub"]).model) == BaseModel("some/host", COMMIT, "llava_onevision", 32)
    assert base_model_of(load_host(others["trained with"]).model) == BaseModel(None, None, "llava_onevision", 32)
    assert base_model_of(build_host(Architecture(text_width=32, text_heads=2, text_layers=1))).name is None


def test_a_digest_follows_a_changed_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a")
    first = weights_digest(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"bc")
    assert weights_digest(tmp_path) != first
