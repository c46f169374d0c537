"""Whatever bytes lie in an adapter folder: it loads, or it ends in AdapterFileError, soon and in little memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import framefold
from framefold import VideoTokens
from framefold.adapters.hosts.lora.config import read_lora
from framefold.adapters.pretrained.config import read_config
from framefold.adapters.pretrained.folder import load_folder
from framefold.errors import AdapterFileError, ConfigError
from tests.support.paths import ASSETS

V1 = ASSETS / "adapters_v1"
SOON = 5.0  # seconds, on a machine that does other things too
some = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
numbers = st.one_of(
    st.integers(-3, 70), st.sampled_from([2**31, 2**63, 10**18, 10**400, -(10**30)]), st.floats(allow_nan=True)
)
leaves = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["auto", "fila", "pool+sttm"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every example writes anew."""
    return tmp_path_factory.mktemp("fuzz")


def fresh(place: Path, sample: str = "fila") -> Path:
    shutil.rmtree(place / "adapter", ignore_errors=True)
    return Path(shutil.copytree(V1 / sample, place / "adapter"))


def outcome(action: Callable[[], Any]) -> Any:
    """What an action gives, or the text of its AdapterFileError; any other error goes through."""
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return action()
        except AdapterFileError as error:
            assert len(str(error)) < 2000 and "\n" not in str(error)
            return str(error)
        finally:
            assert time.monotonic() - start < SOON


def write(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


@some
@given(data=st.data())
def test_any_value_in_any_field_of_a_config(place: Path, data: st.DataObject) -> None:
    folder = fresh(place)
    config = json.loads((folder / "config.json").read_text())
    known = {
        **config,
        "base_model_revision": "",
        "host": "",
        "width": 1,
        "host_weights": "",
        "lora": False,
        "frame_sampling": {},
    }
    where, names = data.draw(st.sampled_from([(config, list(known)), (config["params"], list(config["params"]))]))
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        where[name] = data.draw(values)
    write(folder, config)
    loaded = outcome(lambda: framefold.load(folder))
    if isinstance(loaded, framefold.Compressor):
        assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())


@some
@given(
    config=values,
    name=st.sampled_from(framefold.list_compressors()),
    params=st.dictionaries(st.text(max_size=6), values, max_size=2),
)
def test_any_json_as_a_config(place: Path, config: Any, name: str, params: dict) -> None:
    folder = fresh(place, "st_simdiff")
    write(folder, config)
    assert isinstance(outcome(lambda: framefold.load(folder)), str)
    write(folder, {"framefold_format": 1, "compressor": name, "budget": 0.1, "params": params})
    outcome(lambda: framefold.load(folder))


@some
@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_config(place: Path, data: bytes) -> None:
    folder = fresh(place)
    (folder / "config.json").write_bytes(data)
    assert isinstance(outcome(lambda: framefold.load(folder)), str)


@some
@given(data=st.data())
def test_damaged_bytes_of_weights(place: Path, data: st.DataObject) -> None:
    folder = fresh(place)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 40))]
        else:
            content[at:at] = data.draw(st.binary(max_size=40))
        content = content or bytearray(1)
    file.write_bytes(bytes(content))
    loaded = outcome(lambda: framefold.load(folder))
    if isinstance(loaded, framefold.Compressor):  # a number was changed, and is still one
        assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())


dtypes = st.sampled_from(["F32", "F64", "BF16", "F16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X9", 3, None])
tensors = st.fixed_dictionaries(
    {"dtype": dtypes, "shape": st.lists(numbers, max_size=4), "data_offsets": st.lists(numbers, max_size=3)}
)


@some
@given(
    header=st.dictionaries(st.sampled_from(["static", "score", "../../x", "__metadata__", ""]), tensors | values),
    length=st.none() | st.sampled_from([0, 7, 2**20, 2**40, 2**63, 2**64 - 1]),
    body=st.binary(max_size=64),
)
def test_headers_of_weights_that_lie(place: Path, header: Any, length: int | None, body: bytes) -> None:
    folder = fresh(place)
    text = json.dumps(header).encode()
    start = (len(text) if length is None else length).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(start + text + body)
    assert isinstance(outcome(lambda: framefold.load(folder)), str)


@some
@given(data=st.data())
def test_any_value_in_any_field_of_a_lora(place: Path, data: st.DataObject) -> None:
    pytest.importorskip("peft")
    folder = fresh(place, "fila_lora")
    file = folder / "lora" / "adapter_config.json"
    config = json.loads(file.read_text())
    for name in data.draw(st.lists(st.sampled_from(list(config)) | st.text(max_size=5), min_size=1, max_size=2)):
        config[name] = data.draw(values)
    file.write_text(json.dumps(config))
    outcome(lambda: read_lora(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "loop", "dangling"])
def test_what_is_no_regular_file_is_refused_at_once(place: Path, name: str, kind: str) -> None:
    file = fresh(place) / name
    file.unlink()
    make = {
        "folder": file.mkdir,
        "fifo": lambda: os.mkfifo(file),
        "device": lambda: file.symlink_to("/dev/zero"),
        "loop": lambda: file.symlink_to(file),
        "dangling": lambda: file.symlink_to("/nowhere/at/all"),
    }
    make[kind]()
    assert name in outcome(lambda: framefold.load(file.parent))


def test_files_that_are_links_are_read_and_never_written_through(place: Path, tmp_path: Path) -> None:
    folder, blob = fresh(place), tmp_path / "blob"
    shutil.move(folder / "model.safetensors", blob)
    before = blob.read_bytes()
    (folder / "model.safetensors").symlink_to(blob)
    compressor = framefold.load(folder)  # as in the cache of huggingface_hub
    with torch.no_grad():
        compressor.score.add_(1)
    compressor.save_pretrained(folder)
    assert blob.read_bytes() == before and not (folder / "model.safetensors").is_symlink()


def test_a_file_of_a_terabyte_is_not_read(place: Path) -> None:
    folder = fresh(place)
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(2**40)
    assert "model.safetensors" in outcome(lambda: framefold.load(folder))
    (folder / "config.json").unlink()
    with open(folder / "config.json", "wb") as file:
        file.truncate(2**40)
    assert "at most" in outcome(lambda: framefold.load(folder))


def test_weights_are_compared_with_the_config_before_they_are_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fresh(place)
    save_file({"static": torch.zeros(300, 300), "score": torch.zeros(32)}, folder / "model.safetensors")
    monkeypatch.setattr(
        "framefold.adapters.pretrained.weights.load_file", lambda file: pytest.fail("the file was read")
    )
    assert "'static' is (300, 300), must be" in outcome(lambda: framefold.load(folder))


@pytest.mark.parametrize(
    ("compressor", "params"),
    [
        ("qtsplus", {"dim": 128, "heads": 4, "kv_heads": 4, "scoring_layers": 10**7}),
        ("qtsplus", {"dim": 10**9, "scoring_layers": 64}),
        ("fila", {"dim": 10**9, "grid": [10**4, 10**4]}),
        ("fila", {"dim": 10**18, "grid": [10**18, 10**18]}),
        ("storm", {"dim": 10**12, "layers": 8}),
        ("storm", {"dim": 2**62}),
        ("+".join(["fila"] * 2000), {}),
    ],
)
def test_absurd_sizes_take_neither_time_nor_memory(place: Path, compressor: str, params: dict) -> None:
    folder = fresh(place)
    write(folder, {"framefold_format": 1, "compressor": compressor, "budget": 0.1, "params": params})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(outcome(lambda: framefold.load(folder)), str)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("depth", [100, 900, 100_000])
def test_deeply_nested_configs(place: Path, depth: int) -> None:
    folder = fresh(place)
    config = json.loads((folder / "config.json").read_text())
    text = json.dumps(config | {"params": "HERE", "training": "THERE"})
    nested = "[" * depth + "]" * depth
    (folder / "config.json").write_text(
        text.replace('"HERE"', f'{{"r": {nested}}}').replace('"THERE"', f'{{"x": {nested}}}')
    )
    assert isinstance(outcome(lambda: framefold.load(folder)), str)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"framefold_format": 2}, "newer than 1: upgrade framefold"),
        ({"framefold_format": 10**30}, "newer than 1"),
        ({"framefold_format": 0}, "1 or more"),
        ({"framefold_format": True}, "1 or more"),
        ({"framefold_format": "1"}, "framefold_format"),
        ({"width": 0}, "width must be 1 to"),
        ({"width": 10**12}, "width must be 1 to"),
        ({"width": True}, "'width' must be int"),
        ({"width": "32"}, "'width' must be int"),
        ({"host": 3}, "'host' must be str"),
        ({"lora": "yes"}, "'lora' must be bool"),
        ({"base_model_revision": ["main"]}, "'base_model_revision' must be str"),
        ({"training": "long"}, "'training' must be dict"),
        ({"frame_sampling": 8}, "'frame_sampling' must be dict"),
        ({"budget": 0.0}, "ratio"),
        ({"budget": float("nan")}, "budget|ratio"),
        ({"budget": -4}, "at least 1"),
        ({"budget": "auto"}, "does not predict"),
        ({"compressor": "os.system"}, "no compressor is called"),
        ({"compressor": "../fila"}, "no compressor is called"),
    ],
)
def test_fields_of_a_wrong_type_or_out_of_range_are_named(place: Path, changes: dict, text: str) -> None:
    folder = fresh(place)
    write(folder, json.loads((folder / "config.json").read_text()) | changes)
    with pytest.raises(AdapterFileError, match=text):
        framefold.load(folder)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("target_modules", "(.*a)*b", "target_modules repeats a group"),
        ("target_modules", r"(\w+\.?)+!", "target_modules repeats a group"),
        ("exclude_modules", ".*" * 30 + "!", "exclude_modules has more than 3 repeats"),
        ("target_modules", "a?" * 40 + "a" * 40, "has more than 12 groups and optional parts"),
        ("layers_pattern", ["(a|b)+"], "layers_pattern repeats a group"),
        ("rank_pattern", {"(.+)+!": 8}, "rank_pattern repeats a group"),
        ("alpha_pattern", {"x" * 3000: 8}, "alpha_pattern has more than 2000 characters"),
        ("lora_alpha", float("inf"), "lora_alpha is inf"),
        ("lora_dropout", float("nan"), "lora_dropout is nan"),
    ],
)
def test_lora_that_would_keep_peft_busy_for_ever_is_refused(place: Path, field: str, value: Any, text: str) -> None:
    pytest.importorskip("peft")
    folder = fresh(place, "fila_lora")
    file = folder / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    assert text in outcome(lambda: read_lora(folder))


def test_what_could_not_be_loaded_again_is_not_saved(place: Path) -> None:
    with pytest.raises(ConfigError, match="width must be 1 to"):
        framefold.build("st_simdiff").save_pretrained(place / "unsaved", width=-1)
    assert not (place / "unsaved").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_refused(place: Path, value: float) -> None:
    folder = fresh(place)
    state = load_file(folder / "model.safetensors")
    state["score"][3] = value
    save_file(state, folder / "model.safetensors")
    with pytest.raises(AdapterFileError, match="score holds NaN or infinite"):
        framefold.load(folder)


def test_fields_that_nobody_knows_are_left_alone(place: Path) -> None:
    folder = fresh(place)
    write(folder, json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "evil.Evil"}, "x": [1]})
    video = VideoTokens.from_grid(torch.randn(4, 4, 4, 32, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(load_folder(folder)(video).tokens.features, load_folder(V1 / "fila")(video).tokens.features)
    assert read_config(folder)["x"] == [1]


def test_nothing_of_a_folder_is_imported(place: Path) -> None:
    folder = fresh(place)
    for name in ("fila.py", "sitecustomize.py", "torch.py", "config.py"):
        (folder / name).write_text(f"open({str(place / 'owned')!r}, 'w')")
    code = "import framefold, sys; framefold.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, timeout=100, cwd=place)
    assert done.returncode == 0 and not (place / "owned").exists(), done.stderr.decode()[-500:]
