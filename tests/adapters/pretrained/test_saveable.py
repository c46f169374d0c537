"""Compressors of one's own: what can be saved, and what is refused before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import framefold
from framefold import Selector, VideoTokens
from framefold.adapters.core import registry
from framefold.adapters.pretrained.saveable import check_saveable
from framefold.errors import AdapterFileError, ConfigError
from tests.support.cases import case


@pytest.fixture(autouse=True)
def clean_registry() -> Iterator[None]:
    before = dict(registry._CLASSES)
    yield
    registry._CLASSES.clear()
    registry._CLASSES.update(before)


def compressor(create: Callable[[Any], None], **fields: Any) -> Any:
    """Return a compressor whose constructor runs ``create``."""

    class Own(Selector):
        name = "own_of_a_test"
        trainable = True

        def __init__(self, budget: float | int = 0.25) -> None:
            super().__init__(budget)
            create(self)

        def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
            return video.features[:, 0]

    for name, value in fields.items():
        setattr(Own, name, value)
    registry._CLASSES["own_of_a_test"] = Own
    return Own(0.1)


def tied_modules(own: Any) -> None:
    own.a, own.b = nn.Linear(4, 4), nn.Linear(4, 4)
    own.b.weight = own.a.weight


def shared_module(own: Any) -> None:
    own.a = own.b = nn.Linear(4, 4)


def three_names(own: Any) -> None:
    tied_modules(own)
    own.register_parameter("c", own.a.weight)


def shared_buffer(own: Any) -> None:
    own.register_buffer("first", torch.arange(6.0))
    own.register_buffer("second", own.first)


TIED = [tied_modules, shared_module, three_names, shared_buffer]


def test_tied_weights_are_saved_once_and_tied_again(tmp_path: Path) -> None:
    for create in TIED:
        with case(create.__name__):
            own, folder = compressor(create), tmp_path / create.__name__
            with torch.no_grad():
                for value in own.state_dict().values():
                    value.normal_()
            own.save_pretrained(folder)
            saved = load_file(folder / "model.safetensors")
            assert len(saved) < len(own.state_dict())
            loaded = framefold.load(folder)
            for name, value in own.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], value), name
            pointers = [value.data_ptr() for value in loaded.state_dict().values()]
            assert len(set(pointers)) == len(saved)  # tied again


def test_a_file_with_both_names_of_one_tensor_must_have_equal_values(tmp_path: Path) -> None:
    own = compressor(tied_modules)
    own.save_pretrained(tmp_path)
    save_file(
        {key: torch.randn(value.shape) for key, value in own.state_dict().items()}, tmp_path / "model.safetensors"
    )
    with pytest.raises(AdapterFileError, match="b.weight"):
        framefold.load(tmp_path)


def view_of_a_parameter(own: Any) -> None:
    own.a = nn.Linear(4, 4)
    own.register_buffer("rows", own.a.weight.detach()[1:3])


def buffer_of_a_parameter(own: Any) -> None:
    own.a = nn.Linear(4, 4)
    own.register_buffer("copy", own.a.weight.detach())


def two_parameters_in_one_memory(own: Any) -> None:
    own.a = nn.Linear(4, 4)
    own.c = nn.Parameter(own.a.weight.detach())


def transposed(own: Any) -> None:
    own.a = nn.Linear(4, 4)
    own.b = nn.Parameter(own.a.weight.detach().T)


def expanded(own: Any) -> None:
    own.register_buffer("scale", torch.ones(1).expand(5))


def sparse(own: Any) -> None:
    own.register_buffer("graph", torch.eye(4).to_sparse())


def tied_only_here(own: Any) -> None:
    own.a, own.b = nn.Linear(4, 4), nn.Linear(4, 4)
    if own.a.weight.device.type != "meta":
        own.b.weight = own.a.weight


def more_weights_here(own: Any) -> None:
    own.a = nn.Linear(4, 4)
    if own.a.weight.device.type != "meta":
        own.late = nn.Linear(4, 4)


REFUSED = [
    (view_of_a_parameter, "rows is a view of the memory of a.weight"),
    (buffer_of_a_parameter, "are two tensors in one memory"),
    (two_parameters_in_one_memory, "a.weight and c are two tensors in one memory"),
    (transposed, "is a view of the memory of"),
    (expanded, "scale is an expanded tensor"),
    (sparse, "graph of its state_dict.* is torch.sparse_coo"),
    (tied_only_here, "b.weight is the same tensor as a.weight, but not in a new compressor"),
    (more_weights_here, "late.bias is \\(4,\\) here and missing in a new compressor"),
]


def test_what_loading_cannot_restore_is_refused_and_named(tmp_path: Path) -> None:
    for create, text in REFUSED:
        with case(create.__name__):
            own = compressor(create)
            for refuse in (check_saveable, lambda own: own.save_pretrained(tmp_path / "adapter")):
                with pytest.raises(ConfigError, match=text):
                    refuse(own)
    assert not (tmp_path / "adapter").exists()


def test_parameters_that_cannot_be_saved_are_refused_and_named() -> None:
    class WithParams(Selector):
        name = "with_params_of_a_test"

        def __init__(self, budget: float | int = 0.25, *, device: Any = None, forgotten: int = 3) -> None:
            super().__init__(budget)
            self.device = device
            if device is not None:
                self.forgotten = forgotten

    with pytest.raises(ConfigError, match="must store each parameter .*forgotten"):
        check_saveable(WithParams())
    with pytest.raises(ConfigError, match="the parameter device cannot be saved as JSON"):
        check_saveable(WithParams(device=torch.device("cpu")))
    with pytest.raises(ConfigError, match="Nameless must define its own name"):
        check_saveable(type("Nameless", (Selector,), {})())


def test_weights_of_the_host_are_refused() -> None:
    host = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    def create(own: Any) -> None:
        own.a = nn.Linear(4, 4)

    own = compressor(create)
    check_saveable(own, host)
    host.add_module("compressor", own)  # attached: the host holds the weights of the compressor itself
    check_saveable(own, host)
    for value in (host[1].weight, nn.Parameter(host[1].weight.detach()[:, :4])):
        own.a.weight = value
        with pytest.raises(ConfigError, match="a.weight of the compressor is the memory of 1.weight of the host"):
            check_saveable(own, host)


def test_a_compressor_moved_to_another_dtype_keeps_its_ties(tmp_path: Path) -> None:
    """Converting separates buffers that shared memory: they are saved once while they are equal."""
    own = compressor(shared_buffer).half()
    own.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == {"first"}
    own.second.add_(1)
    with pytest.raises(ConfigError, match="second and first are one tensor in a new compressor"):
        own.save_pretrained(tmp_path)
