"""What attaching must know about a host family, and the registry of families by ``config.model_type``.

Everything that differs between families (and drifts between transformers versions) lives in subclasses of
:class:`Family`, one file each; compaction and hooks know none of it. The defaults fit hosts with 1-D positions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from framefold.errors import UnsupportedHostError

from .encoded import Encoded

OLDEST_TRANSFORMERS = "5.20"

_FAMILIES: dict[str, Family] = {}


class Family:
    """One family of hosts. Subclass it, then :func:`register_family` an instance.

    Attributes:
        model_type: ``config.model_type`` of the hosts.
        classes: names of the top-level classes (with a language model head) that can be attached to.
        modality: the key of ``mm_encoder_outputs`` under which the host takes the features of a video.
        pixels: name of the argument that holds the raw pixels of the videos.
        images: names of the arguments that may hold raw pixels of images beside them; none where videos are images.
        vision_inputs: names of all arguments that only the vision side and the positions read; they are dropped once
            both are known.
        read_directly: parameters below the base model that the host reads without calling the module that owns them;
            under ZeRO-3 somebody has to gather those.
        columns: arguments with one value a prompt column, and the value that padding gets.
        remembers: attributes of the base model that a forward leaves for the next; ``detach`` puts them back.
        language, vision: names of the language model and of the vision encoder of videos in the base model.
        frame_text: regular expression of the text that the processor writes beside a frame, no part of a question; its
            whitespace does not count.
    """

    model_type: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    modality: ClassVar[Literal["video", "image"]] = "video"
    pixels: ClassVar[str] = "pixel_values_videos"
    images: ClassVar[tuple[str, ...]] = ("pixel_values",)
    vision_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos", "pixel_values")
    read_directly: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, int]] = {"token_type_ids": 0, "mm_token_type_ids": 0, "labels": -100}
    remembers: ClassVar[tuple[str, ...]] = ()
    language: ClassVar[str] = "language_model"
    vision: ClassVar[str] = "vision_tower"
    frame_text: ClassVar[str] = ""

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        """(H, W) token grid of a frame, for compressors that size their parameters by it; nominal where it varies."""
        raise NotImplementedError

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Encoded]:
        """Run the host's own vision side; one :class:`Encoded` per video in (row, column) order.

        Raises:
            InputError: the arguments of the vision side are missing, empty, misshapen or do not fit each other.
        """
        raise NotImplementedError

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        """What the host takes under ``mm_encoder_outputs[modality]``.

        Args:
            streams: features, then each deepstack layer; each a list of (N_i, D) groups in placeholder order.
        """
        raise NotImplementedError

    def vision_attention(self, model: PreTrainedModel) -> nn.Module:
        """The attention module of the last vision block."""
        tower = model.base_model.get_submodule(self.vision)
        return [module for module in tower.modules() if type(module).__name__.endswith("Attention")][-1]

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        """(T, H, W) mean over the patches of each token, per video; None for stills.

        Args:
            clips: what :meth:`encode` returned.
            received: (B, L) attention that the patches received, for each call of the attention function.
        """
        raise NotImplementedError

    def placeholder_id(self, model: PreTrainedModel) -> int:
        """Token that stands in the prompt for one visual token of a video."""
        return model.config.video_token_id

    def placeholders(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        """(B, L) bool, the columns of the prompts that the features of the videos fill."""
        return inputs["input_ids"] == self.placeholder_id(model)

    def pad_id(self, model: PreTrainedModel) -> int:
        """Token for new padding columns, which are masked; anything but a placeholder."""
        pad = model.config.get_text_config().pad_token_id
        taken = {self.placeholder_id(model), getattr(model.config, "image_token_id", None)}
        return next(candidate for candidate in (pad, 0, 1, 2) if candidate is not None and candidate not in taken)

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any], mask: Tensor, generation: bool) -> Tensor:
        """(..., B, L) positions that the host gives the columns of the uncompressed prompts."""
        return self.number(mask, generation)

    def number(self, mask: Tensor, generation: bool) -> Tensor:
        """(..., B, L) positions of a prompt of text: forward counts columns, generate those that are not masked."""
        if generation:
            return count_unmasked(mask)
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)

    def settle(self, model: PreTrainedModel, positions: Tensor, mask: Tensor, generation: bool) -> Tensor:
        """The positions in the form that the host takes, once the prompt is short; sets what the host remembers."""
        return positions

    def next_position(self, positions: Tensor, mask: Tensor, columns: int) -> Tensor:
        """(B,) position of the token after the prompt in a decode loop that gives none.

        Args:
            columns: length of the prompt whose positions these are.
        """
        return torch.full((mask.shape[0],), columns, device=mask.device)

    def vision_requires_grad(self, model: PreTrainedModel) -> bool:
        """Whether any parameter of the vision side is being trained."""
        own = f"{self.language}."
        return any(p.requires_grad for name, p in model.base_model.named_parameters() if not name.startswith(own))


def count_unmasked(mask: Tensor) -> Tensor:
    """(B, L) int64 number of each unmasked column in its row, from 0; 0 where masked."""
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


def features_of(model: PreTrainedModel, modality: str, inputs: Mapping[str, Any]) -> Any:
    """Run ``get_video_features`` or ``get_image_features`` of the base model on those of the inputs that it names."""
    cls: Any = type(model.base_model)
    names = parameters_of(cls, f"get_{modality}_features")
    return getattr(model.base_model, f"get_{modality}_features")(
        **{name: inputs[name] for name in names if name in inputs}, return_dict=True
    )


@functools.cache
def parameters_of(cls: Any, name: str) -> tuple[str, ...]:
    """Names of the arguments of a method."""
    return tuple(name for name in inspect.signature(getattr(cls, name)).parameters if name not in ("self", "kwargs"))


def register_family(family: Family) -> None:
    """Add a family, or replace the one of the same ``model_type``; third parties call this for hosts of their own."""
    _FAMILIES[family.model_type] = family


def list_families() -> list[str]:
    """The ``config.model_type`` of every supported family, sorted."""
    return sorted(_FAMILIES)


def family_of(model: Any) -> Family:
    """The family of a host.

    Raises:
        UnsupportedHostError: no transformers model, of no supported family, without a language model head, or of a
            transformers version whose forward takes no ``mm_encoder_outputs``.
    """
    family = _FAMILIES.get(model.config.model_type) if isinstance(model, PreTrainedModel) else None
    cls: Any = type(model)
    if family is not None and _fits(cls, family.classes):
        return family
    supported = ", ".join(f"{name} ({'/'.join(_FAMILIES[name].classes)})" for name in list_families())
    if not isinstance(model, PreTrainedModel):
        problem = f"{type(model).__name__} is no transformers model; pass the one that a wrapper (PEFT, DDP, ...) holds"
    elif family is None or not _has_name(cls, family.classes):
        problem = f"cannot attach to {type(model).__name__} (model_type {model.config.model_type!r})"
    else:
        problem = (
            f"transformers {transformers.__version__} takes no pre-encoded video (mm_encoder_outputs): install"
            f" transformers>={OLDEST_TRANSFORMERS}"
        )
    raise UnsupportedHostError(f"{problem}. Supported: {supported}")


@functools.cache
def _fits(cls: Any, names: tuple[str, ...]) -> bool:
    recent = Version(transformers.__version__).release >= Version(OLDEST_TRANSFORMERS).release
    return recent and _has_name(cls, names) and "mm_encoder_outputs" in inspect.signature(cls.forward).parameters


def _has_name(cls: type, names: tuple[str, ...]) -> bool:
    return any(base.__name__ in names for base in cls.__mro__)
