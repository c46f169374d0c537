"""Description of a host family, and the registry of families by ``config.model_type``.

Everything that differs between families, and between versions of transformers, is in subclasses of :class:`Family`,
one file each. Compaction and hooks are generic. The defaults fit hosts with 1-D positions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from framefold.adapters.core.language_model import LanguageModelShape
from framefold.errors import UnsupportedHostError
from framefold.messages import nearest

from .encoded import Encoded

OLDEST_TRANSFORMERS = "5.20"

_FAMILIES: dict[str, Family] = {}


class Family:
    """One family of hosts. Subclass it and pass an instance to :func:`register_family`.

    Attributes:
        model_type: ``config.model_type`` of the hosts.
        classes: names of the top-level classes (with a language model head) that can be attached to.
        modality: key of ``mm_encoder_outputs`` under which the host takes the features of a video.
        pixels: name of the argument with the raw pixels of the videos.
        images: arguments with raw pixels of images in the same prompts; empty if videos are passed as images.
        vision_inputs: arguments that only the vision side or the positions read; they are dropped after both.
        read_directly: parameters below the base model that the host reads without calling the module that owns them;
            under ZeRO-3 they must be gathered explicitly.
        columns: arguments with one value per prompt column, and their value for padding.
        remembers: attributes of the base model that a forward sets for the next one; ``detach`` restores them.
        builds_mask_twice: whether the host passes its attention mask through ``create_causal_mask`` before the language
            model, which calls it again. A mask of ones is dropped by the first call, and the second takes gaps in the
            positions for packing. Such a host gets a column of padding.
        recurrent: whether layers of the language model carry a state from column to column.
        windowed: whether layers of the language model see a number of columns before their own.
        videos_span_time: whether the frames of a video differ in their position in time, so that a video can extend
            further in time than in height and width; see :meth:`move_text_behind_videos`.
        norm_offset: what the norms of the decoder layers add to their weights before they multiply by them.
        language: name of the language model in the base model.
        vision: name of the vision encoder of videos in the base model.
        frame_text: pattern of the text that the processor writes next to a frame; its whitespace is ignored.
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
    builds_mask_twice: ClassVar[bool] = False
    recurrent: ClassVar[bool] = False
    windowed: ClassVar[bool] = False
    videos_span_time: ClassVar[bool] = False
    norm_offset: ClassVar[float] = 0.0
    language: ClassVar[str] = "language_model"
    vision: ClassVar[str] = "vision_tower"
    frame_text: ClassVar[str] = ""

    @property
    def pads_left(self) -> bool:
        """Whether new padding is on the left, as it would change a state or take places in a window on the right."""
        return self.recurrent or self.windowed

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        """Return the (H, W) token grid of a frame, which sizes parameters of compressors; nominal where it varies."""
        raise NotImplementedError

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        """Run the host's own vision side and return one :class:`Encoded` per video in (row, column) order.

        Args:
            model: the host.
            inputs: the host's inputs.
            chunk: number of frames that the vision encoder takes at once; None for all.

        Raises:
            InputError: arguments of the vision side are missing, empty, of a wrong shape, or inconsistent.
        """
        raise NotImplementedError

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        """Return arguments of the vision side for a video without content; hosts may round its size in pixels."""
        raise UnsupportedHostError(f"the family {self.model_type} does not define blank_video, which plans need")

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        """Return the value of ``mm_encoder_outputs[modality]`` in the form that the host expects.

        Args:
            streams: features, then each deepstack layer; each is a list of (N_i, D) groups in placeholder order.
        """
        raise NotImplementedError

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        """Return the language model, a stack of decoder ``layers`` and a final ``norm``, without its head."""
        return model.base_model.get_submodule(self.language)

    def decoder_layers(self, model: PreTrainedModel) -> Sequence[nn.Module]:
        """Return the layers of the language model."""
        language_model: Any = self.language_model(model)
        return language_model.layers

    def language_model_shape(self, model: PreTrainedModel) -> LanguageModelShape:
        """Return the sizes of the language model."""
        text: Any = model.config.get_text_config()
        heads = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        return LanguageModelShape(text.num_hidden_layers, text.hidden_size, heads, kv_heads, width)

    def create_parameters(self, compressor: Any, model: PreTrainedModel, device: torch.device | None = None) -> None:
        """Create the parameters of a compressor whose shapes depend on the host, unless they exist."""
        shape = self.language_model_shape(model)
        compressor.materialize(shape.width, self.grid(model), device)
        compressor.materialize_in_llm(shape, device)

    def vision_attention(self, model: PreTrainedModel) -> nn.Module:
        """Return the attention module of the tower's pooling head, if it has one, otherwise of its last block."""
        tower = model.base_model.get_submodule(self.vision)
        return [module for module in tower.modules() if type(module).__name__.endswith("Attention")][-1]

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        """Return the (T, H, W) mean over the patches of each token per video, None for stills.

        Args:
            model: the host.
            inputs: the host's inputs.
            clips: result of :meth:`encode`.
            received: (B, L) attention that the patches received, for each call of the attention function.
        """
        raise NotImplementedError

    def placeholder_id(self, model: PreTrainedModel) -> int:
        """Return the token id that stands for one visual token of a video in the prompt."""
        return model.config.video_token_id

    def embedded_placeholder_id(self, model: PreTrainedModel) -> int:
        """Return the token id whose embedding is a placeholder of a video for a host that gets no token ids."""
        return self.placeholder_id(model)

    def placeholders(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        """Return a (B, L) bool mask of the columns that the features of the videos fill."""
        return inputs["input_ids"] == self.placeholder_id(model)

    def image_placeholders(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        """Return a (B, L) bool mask of the columns that the features of images fill."""
        image = getattr(model.config, "image_token_id", None)
        return inputs["input_ids"] == (-1 if image is None else image)

    def has_video(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> bool:
        """Return whether the inputs contain raw video; the host runs unchanged on all other inputs."""
        return inputs.get(self.pixels) is not None

    def pad_id(self, model: PreTrainedModel) -> int:
        """Return a token id for new padding columns, which are masked; it must not be a placeholder."""
        pad = model.config.get_text_config().pad_token_id
        taken = {self.placeholder_id(model), getattr(model.config, "image_token_id", None)}
        return next(candidate for candidate in (pad, 0, 1, 2) if candidate is not None and candidate not in taken)

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any], mask: Tensor, generation: bool) -> Tensor:
        """Return the (..., B, L) positions that the host assigns to the columns of the uncompressed prompts.

        ``input_ids`` are None where the host gets embeddings instead.
        """
        return self.text_positions(mask, generation)

    def move_text_behind_videos(self, positions: Tensor, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        """Return the positions with the text behind each video after the video's largest position on any axis.

        Only families with ``videos_span_time`` have another rule.
        """
        return positions

    def text_positions(self, mask: Tensor, generation: bool) -> Tensor:
        """Return the (..., B, L) positions of text: forward counts all columns, generate only unmasked ones."""
        if generation:
            return count_unmasked(mask)
        return torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)

    def finalize_positions(self, model: PreTrainedModel, positions: Tensor, mask: Tensor, generation: bool) -> Tensor:
        """Return the positions of the shortened prompt in the host's form, and set what the host remembers."""
        return positions

    def next_position(self, positions: Tensor, mask: Tensor, columns: int) -> Tensor:
        """Return the (B,) position of the token after the prompt, for a decode loop that passes no positions.

        Args:
            positions: (..., B, L) positions of the prompt.
            mask: (B, L) attention mask of the prompt.
            columns: length of the prompt that the positions number.
        """
        return torch.full((mask.shape[0],), columns, device=mask.device)

    def prefills_in_chunks(self, model: PreTrainedModel) -> bool:
        """Return whether the host may read a prompt with a video in chunks, because no column sees a later one."""
        return True

    def vision_requires_grad(self, model: PreTrainedModel) -> bool:
        """Return whether any parameter of the vision side requires gradients."""
        language = set(self.language_model(model).parameters())
        return any(p.requires_grad for p in model.base_model.parameters() if p not in language)


def count_unmasked(mask: Tensor) -> Tensor:
    """Return the (B, L) int64 index of each column among the unmasked ones of its row; 0 where masked."""
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


def features_of(model: PreTrainedModel, modality: str, inputs: Mapping[str, Any]) -> Any:
    """Run ``get_video_features`` or ``get_image_features`` of the base model on the inputs that it accepts."""
    cls: Any = type(model.base_model)
    names = parameters_of(cls, f"get_{modality}_features")
    return getattr(model.base_model, f"get_{modality}_features")(
        **{name: inputs[name] for name in names if name in inputs}, return_dict=True
    )


@functools.cache
def parameters_of(cls: Any, name: str) -> tuple[str, ...]:
    """Return the names of the arguments of a method."""
    return tuple(name for name in inspect.signature(getattr(cls, name)).parameters if name not in ("self", "kwargs"))


def register_family(family: Family) -> None:
    """Add a family, or replace the family of the same ``model_type``. Third parties call this for their hosts."""
    _FAMILIES[family.model_type] = family


def list_families() -> list[str]:
    """Return the ``config.model_type`` of every supported family, sorted."""
    return sorted(_FAMILIES)


def get_family(model_type: str) -> Family:
    """Return the family of a ``config.model_type``.

    Raises:
        UnsupportedHostError: no family has that name; the message lists the most similar ones.
    """
    if model_type not in _FAMILIES:
        raise UnsupportedHostError(f"no host family is called {model_type!r}{nearest(model_type, _FAMILIES)}")
    return _FAMILIES[model_type]


def family_of(model: Any) -> Family:
    """Return the family of a host.

    Raises:
        UnsupportedHostError: the model is no transformers model, belongs to no supported family, has no language model
            head, or the forward of this transformers version does not accept ``mm_encoder_outputs``.
    """
    family = _FAMILIES.get(model.config.model_type) if isinstance(model, PreTrainedModel) else None
    cls: Any = type(model)
    if family is not None and _fits(cls, family.classes):
        return family
    supported = ", ".join(f"{name} ({'/'.join(_FAMILIES[name].classes)})" for name in list_families())
    if not isinstance(model, PreTrainedModel):
        problem = (
            f"{type(model).__name__} is not a transformers model; pass the model inside a wrapper (PEFT, DDP, ...)"
        )
    elif family is None or not _has_name(cls, family.classes):
        problem = f"cannot attach to {type(model).__name__} (model_type {model.config.model_type!r})"
        classes = {name for known in _FAMILIES.values() for name in known.classes}
        parts = [name for name, part in model.named_children() if _has_name(type(part), tuple(classes))]
        problem += "".join(f"; attach to its part .{name} instead" for name in parts[:1])  # of omni models
    else:
        problem = (
            f"transformers {transformers.__version__} does not accept pre-encoded video (mm_encoder_outputs): install"
            f" transformers>={OLDEST_TRANSFORMERS}"
        )
    raise UnsupportedHostError(f"{problem}. Supported: {supported}")


@functools.cache
def _fits(cls: Any, names: tuple[str, ...]) -> bool:
    recent = Version(transformers.__version__).release >= Version(OLDEST_TRANSFORMERS).release
    return recent and _has_name(cls, names) and "mm_encoder_outputs" in inspect.signature(cls.forward).parameters


def _has_name(cls: type, names: tuple[str, ...]) -> bool:
    return any(base.__name__ in names for base in cls.__mro__)
