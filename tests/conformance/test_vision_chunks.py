"""Every family: encoding some frames at a time gives the same videos, and its memory does not grow with the video."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts import prepare
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.prompt.vision import encode
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import Host, build
from tests.support.hosts.tiny_families import HOSTS
from tests.support.peak_memory import peak_bytes


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


def tensors(clip: Encoded) -> list[Tensor]:
    """Return everything of a video that is a tensor, and its times."""
    own = [value for value in vars(clip).values() if isinstance(value, Tensor)]
    return [*own, *clip.deepstack]


def frames_taken(host: Host, inputs: dict[str, Any], **settings: Any) -> list[int]:
    """Return how many patches enter the vision encoder in each of its calls."""
    taken: list[int] = []
    name = framefold.adapters.hosts.base.family.family_of(host.model).vision
    tower = host.model.base_model.get_submodule(name)

    def record(module: Any, args: Any, kwargs: Any) -> None:
        pixels = args[0] if args else next(v for k, v in kwargs.items() if k in ("pixel_values", "hidden_states"))
        taken.append(len(pixels))

    hook = tower.register_forward_pre_hook(record, with_kwargs=True)
    encode(host.model, inputs, **settings)
    hook.remove()
    return taken


@pytest.mark.parametrize("attention", [False, True])
def test_videos_are_the_same_to_the_bit(host: Host, attention: bool) -> None:
    if attention and host.name == "gemma4_unified":
        pytest.skip("it has no vision encoder")
    inputs = host.batch([5, -7, 6], [9, -4, 3, -2]).attached_inputs
    expected = encode(host.model, inputs, attention)
    for chunk in (1, 2, 3, 6, 100):
        found = encode(host.model, inputs, attention, vision_chunk=chunk)
        assert len(found) == len(expected) == 3
        for one, other in zip(found, expected, strict=True):
            pairs = list(zip(tensors(one), tensors(other), strict=True))
            assert len(pairs) >= 3 + attention
            assert all(torch.equal(a, b) for a, b in pairs), chunk


def test_the_vision_encoder_gets_no_more_frames_at_once(host: Host) -> None:
    inputs = host.batch([5, -8, 6]).attached_inputs
    (everything,) = frames_taken(host, inputs)
    step = getattr(host.model.config.vision_config, "temporal_patch_size", 1)
    assert frames_taken(host, inputs, vision_chunk=3 * step) == [everything * n // 8 for n in (3, 3, 2)]
    if step > 1:  # the frames of a step stay together
        assert frames_taken(host, inputs, vision_chunk=1) == [everything // 8] * 8


def test_memory_is_flat_in_the_number_of_frames(host: Host) -> None:
    if host.name == "gemma4_unified":
        pytest.skip("it has no vision encoder")
    counts = (16, 64, 256)
    batches = [host.batch([5, -count, 6]).attached_inputs for count in counts]
    results = [sum(t.numel() * t.element_size() for t in tensors(encode(host.model, b)[0])) for b in batches]

    def growth(chunk: int | None) -> float:
        peaks = [peak_bytes(lambda inputs=inputs: encode(host.model, inputs, vision_chunk=chunk)) for inputs in batches]
        beyond = [peak - 2 * result for peak, result in zip(peaks, results, strict=True)]  # chunks, and all of them
        return beyond[2] / beyond[0]

    assert growth(None) > 8
    assert growth(8) < 1.5


def test_attached_hosts_and_prepare_take_the_setting(host: Host) -> None:
    inputs = host.batch([5, -8, 6]).attached_inputs
    compressor = framefold.build("uniform", 0.25)
    with framefold.attach(host.model, compressor), torch.no_grad():
        expected = host.model(**inputs).logits
    with framefold.attach(host.model, compressor, vision_chunk=2), torch.no_grad():
        assert torch.equal(host.model(**inputs).logits, expected)
    found = prepare(host.model, inputs, compressor, vision_chunk=2)
    assert torch.equal(found.tokens[0].features, prepare(host.model, inputs, compressor).tokens[0].features)
    for wrong in (0, -1):
        with pytest.raises(InputError, match="vision_chunk must be at least 1"):
            prepare(host.model, inputs, compressor, vision_chunk=wrong)
        with pytest.raises(InputError, match="vision_chunk must be at least 1"):
            framefold.attach(host.model, compressor, vision_chunk=wrong)
