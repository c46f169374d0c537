"""What an attached model remembers; no reference to the model or the compressor, or copies would share them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch.utils.hooks import RemovableHandle

from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.hosts.prompt.question import Query

Outputs = Literal["compact", "full"]

COMPRESSOR_NAME = "compressor"  # PEFT: modules_to_save=["compressor"]

ATTACHMENT_NAME = "_framefold"


@dataclass
class Attachment:
    """What an attached model remembers; no reference to the model or the compressor, or copies would share them."""

    pixels: str
    modality: str
    positions: Positions
    outputs: Outputs
    query: Query
    tokenizer: Any
    ignored_on_save: Any
    had_generate: Any
    remembered: dict[str, Any]
    hooks: list[RemovableHandle] = field(default_factory=list)
