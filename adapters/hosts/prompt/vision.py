"""Run the vision side of a host once, with gradients only if it is being trained, also under ZeRO-3."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, family_of, features_of
from framefold.adapters.hosts.base.offload import loaded
from framefold.errors import InputError

from .embeddings import with_ids
from .frame_clips import name_clips
from .received_attention import recording
from .zero3 import gathered


def encode(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    attention: bool = False,
    tokenizer: Any = None,
    vision_chunk: int | None = None,
) -> list[Encoded]:
    """Run the vision side of the host once.

    No graph is recorded unless a parameter of the vision side requires gradients.

    Args:
        model: the host.
        inputs: the host's inputs.
        attention: also collect the attention that each token received in the last vision block, or in the pooling head
            of the tower, if it has one.
        tokenizer: tokenizer or processor of a host that takes frames as images, with which the videos among the images
            are found. If None, the one next to its weights.
        vision_chunk: number of frames that the vision encoder takes at once, so that its memory does not grow with the
            length of a video; None for all. Frames that a host encodes as one step stay together.

    Returns:
        One Encoded per video, in the order of their placeholders; also one per still, if the host takes frames as
        images.

    Raises:
        InputError: there is no video, or a video is empty or has a wrong shape; or vision_chunk is below 1.
        UnsupportedHostError: see :func:`~framefold.adapters.hosts.base.family.family_of`.
    """
    family = family_of(model)
    if inputs.get(family.pixels) is None:
        raise InputError(f"there is no {family.pixels} to encode")
    check_vision_chunk(vision_chunk)
    inputs = name_clips(model, family, with_ids(model, family, inputs), tokenizer)
    with _vision_side(model, family):
        if not attention:
            return _encode(family, model, inputs, vision_chunk)
        with recording(family.vision_attention(model)) as received:
            clips = _encode(family, model, inputs, vision_chunk)
        grids = family.attention_grids(model, inputs, clips, received)
    return [replace(clip, attention=grid) for clip, grid in zip(clips, grids, strict=True)]


def check_vision_chunk(chunk: int | None) -> None:
    """Check the number of frames that a vision encoder takes at once.

    Raises:
        InputError: it is below 1.
    """
    if chunk is not None and chunk < 1:
        raise InputError(f"vision_chunk must be at least 1 frame, or None for all, got {chunk}")


def _encode(family: Family, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None) -> list[Encoded]:
    return family.encode(model, inputs) if chunk is None else family.encode(model, inputs, chunk)


def encode_images(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Encode the images next to a video, because hosts refuse raw pixels together with ``mm_encoder_outputs``."""
    family = family_of(model)
    if all(inputs.get(name) is None for name in family.images):
        return {}
    with _vision_side(model, family):
        return {"image": features_of(model, "image", inputs)}


@contextlib.contextmanager
def _vision_side(model: PreTrainedModel, family: Family) -> Iterator[None]:
    """Disable gradients if the vision side is frozen, and load parameters that no hook would load.

    Hooks of ZeRO-3 and of accelerate's offload load the parameters of a module around its own forward.
    """
    base = model.base_model
    direct = [*base.parameters(recurse=False), *map(base.get_parameter, family.read_directly)]
    trained = family.vision_requires_grad(model)
    owners = [base, *(base.get_submodule(name.rpartition(".")[0]) for name in family.read_directly)]
    with loaded(owners), gathered(model, direct), contextlib.nullcontext() if trained else torch.no_grad():
        yield
