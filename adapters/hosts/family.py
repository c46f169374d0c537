"""What attaching must know about a host family, and the registry of families by ``config.model_type``.

Everything that differs between families (and drifts between transformers versions) lives in subclasses of
:class:`Family`, one file each; compaction and hooks know none of it. The defaults fit hosts with 1-D positions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from ..errors import UnsupportedHostError

OLDEST_TRANSFORMERS = "5.20"
_FAMILIES: dict[str, Family] = {}


@dataclass(frozen=True, eq=False)
class Encoded:
    """What the vision side of a host made of one video: T frames of H W grid cells, width D, E tokens beside the grid.

    Attributes:
        features: (T, H, W, D) the dense grid, which is what a compressor sees.
        extra: (E, D) tokens that belong to no grid cell (a newline, a CLS token a frame); they are always kept.
        on_grid: (T*H*W + E,) bool over the video's placeholders in prompt order: filled by the grid or by ``extra``?
        deepstack: per tapped layer, (T, H, W, D) features that the language model adds at the same placeholders.
    """

    features: Tensor
    extra: Tensor
    on_grid: Tensor
    deepstack: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        """Number of placeholders that the uncompressed video has in the prompt."""
        return self.on_grid.shape[0]


class Family:
    """One family of hosts. Subclass it, then :func:`register_family` an instance.

    Attributes:
        model_type: ``config.model_type`` of the hosts.
        classes: names of the top-level classes (with a language model head) that can be attached to.
        pixels: name of the argument that holds raw video pixels.
        images: name of the argument that holds raw image pixels.
        vision_inputs: names of all arguments that only the vision side reads; they are dropped once it has run.
        columns: arguments with one value a prompt column, and the value that padding gets.
    """

    model_type: ClassVar[str]
    classes: ClassVar[tuple[str, ...]]
    pixels: ClassVar[str] = "pixel_values_videos"
    images: ClassVar[str] = "pixel_values"
    vision_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos", "pixel_values")
    columns: ClassVar[Mapping[str, int]] = {"token_type_ids": 0, "mm_token_type_ids": 0, "labels": -100}

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        """(H, W) token grid of a frame, for compressors that size their parameters by it."""
        raise NotImplementedError

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Encoded]:
        """Run the host's own ``get_video_features``; one :class:`Encoded` per video in (row, column) order."""
        raise NotImplementedError

    def encode_images(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> ModelOutput:
        """Run the host's own ``get_image_features``, with the arguments that its forward passes."""
        raise NotImplementedError

    def pack(self, groups: list[Tensor]) -> ModelOutput:
        """What the host takes under ``mm_encoder_outputs["video"]``, from (N_i, D) features in placeholder order."""
        raise NotImplementedError

    def placeholder_id(self, model: PreTrainedModel) -> int:
        """Token that stands in the prompt for one visual token of a video."""
        return model.config.video_token_id

    def pad_id(self, model: PreTrainedModel) -> int:
        """Token for new padding columns, which are masked; anything but a placeholder."""
        pad = model.config.get_text_config().pad_token_id
        taken = {self.placeholder_id(model), getattr(model.config, "image_token_id", None)}
        return next(candidate for candidate in (pad, 0, 1, 2) if candidate is not None and candidate not in taken)

    def positions(self, model: PreTrainedModel, ids: Tensor, mask: Tensor, generation: bool) -> Tensor:
        """Positions that the host gives (B, L) ids: forward counts columns, generate those that are not masked."""
        if generation:
            return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)

    def vision_requires_grad(self, model: PreTrainedModel) -> bool:
        """Whether any parameter of the vision side is being trained."""
        return any(
            parameter.requires_grad
            for name, parameter in model.base_model.named_parameters()
            if not name.startswith("language_model.")
        )


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
