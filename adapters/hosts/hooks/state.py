"""Options and saved values of an attached host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch.utils.hooks import RemovableHandle

from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.hosts.prompt.question import Query

Outputs = Literal["compact", "full"]

COMPRESSOR_NAME = "compressor"  # attribute of the host; for PEFT: modules_to_save=["compressor"]

ATTACHMENT_NAME = "_framefold"  # attribute of the host


@dataclass
class Attachment:
    """Options and saved values of an attached host.

    It holds no reference to the model or the compressor, because copies of the model would share them.

    Attributes:
        pixels: name of the argument with raw video.
        modality: key of ``mm_encoder_outputs`` for video.
        positions: option of ``attach``.
        outputs: option of ``attach``.
        query: option of ``attach``.
        tokenizer: option of ``attach``.
        keys_to_ignore_on_save: the host's own value of ``_keys_to_ignore_on_save``.
        instance_generate: ``model.generate``, if it was set on the instance before attaching.
        base_attributes: attributes of the base model that ``detach`` restores.
        vision_chunk: option of ``attach``.
        hooks: handles that ``detach`` removes.
        losses: losses of the compressor in the last forward in training mode.
        warned_of_losses: whether a warning said that nothing uses these losses.
    """

    pixels: str
    modality: str
    positions: Positions
    outputs: Outputs
    query: Query
    tokenizer: Any
    keys_to_ignore_on_save: Any
    instance_generate: Any
    base_attributes: dict[str, Any]
    vision_chunk: int | None = None
    hooks: list[RemovableHandle] = field(default_factory=list)
    losses: Any = None
    warned_of_losses: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"losses": None}  # tensors with a graph can be neither copied nor pickled
