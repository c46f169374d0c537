"""Adapter folders with random content: they load, or raise AdapterFileError, with little computing."""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import framefold
from framefold.adapters.hosts.lora.config import read_lora
from framefold.errors import AdapterFileError
from tests.support.paths import ASSETS

V1 = ASSETS / "adapters_v1"
LIMIT = 5.0  # seconds of processor time
examples = settings(
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
    """Parent of the folder that every example writes."""
    return tmp_path_factory.mktemp("fuzz")


def fresh(place: Path, sample: str = "fila") -> Path:
    shutil.rmtree(place / "adapter", ignore_errors=True)
    return Path(shutil.copytree(V1 / sample, place / "adapter"))


def outcome(action: Callable[[], Any]) -> Any:
    """The value of an action, or the message of its AdapterFileError; other errors are raised."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return action()
        except AdapterFileError as error:
            assert len(str(error)) < 2000 and "\n" not in str(error)
            return str(error)
        finally:
            assert time.process_time() - start < LIMIT


def write(folder: Path, config: Any) -> None:
    (folder / "config.json").write_text(json.dumps(config))


@examples
@given(data=st.data())
def test_any_value_in_any_field_of_a_config(place: Path, data: st.DataObject) -> None:
    folder = fresh(place)
    config = json.loads((folder / "config.json").read_text())
    optional = {"base_model_revision": "", "host": "", "width": 1, "host_weights": "", "lora": False}
    known = [*config, *optional, "frame_sampling"]
    where, names = data.draw(st.sampled_from([(config, known), (config["params"], list(config["params"]))]))
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2)):
        where[name] = data.draw(values)
    write(folder, config)
    loaded = outcome(lambda: framefold.load(folder))
    if isinstance(loaded, framefold.Compressor):
        assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())


@examples
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


@examples
@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_config(place: Path, data: bytes) -> None:
    folder = fresh(place)
    (folder / "config.json").write_bytes(data)
    assert isinstance(outcome(lambda: framefold.load(folder)), str)


@examples
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
    if isinstance(loaded, framefold.Compressor):  # a number was changed to another number
        assert all(torch.isfinite(value).all() for value in loaded.state_dict().values())


dtypes = st.sampled_from(["F32", "F64", "BF16", "F16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "X9", 3, None])
tensors = st.fixed_dictionaries(
    {"dtype": dtypes, "shape": st.lists(numbers, max_size=4), "data_offsets": st.lists(numbers, max_size=3)}
)


@examples
@given(
    header=st.dictionaries(st.sampled_from(["static", "score", "../../x", "__metadata__", ""]), tensors | values),
    length=st.none() | st.sampled_from([0, 7, 2**20, 2**40, 2**63, 2**64 - 1]),
    body=st.binary(max_size=64),
)
def test_false_headers_of_weights(place: Path, header: Any, length: int | None, body: bytes) -> None:
    folder = fresh(place)
    text = json.dumps(header).encode()
    start = (len(text) if length is None else length).to_bytes(8, "little")
    (folder / "model.safetensors").write_bytes(start + text + body)
    assert isinstance(outcome(lambda: framefold.load(folder)), str)


@examples
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
