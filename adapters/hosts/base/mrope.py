"""Hosts with M-RoPE: every column of the prompt has a position in time, in height and in width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.errors import InputError

from .family import count_unmasked, parameters_of
from .patches import GRIDS, Patches


class MRoPE(Patches):
    """What such hosts share. "compact" positions number the shorter prompt like text, on all three axes.

    Attributes:
        needs_token_types: the host refuses a video without ``mm_token_type_ids``; others take its columns for text.
    """

    remembers = ("rope_deltas",)
    needs_token_types = True

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any], mask: Tensor, generation: bool) -> Tensor:
        if inputs.get("mm_token_type_ids") is None:
            if self.needs_token_types:
                raise InputError("pass mm_token_type_ids with a video; the processor returns them with input_ids")
            return self.number(mask, generation)
        if inputs.get(GRIDS) is None:
            raise InputError(f"pass {GRIDS} with a video; the processor returns it")
        base: Any = model.base_model
        cls: Any = type(base)
        named = {name: inputs[name] for name in parameters_of(cls, "get_rope_index") if name in inputs}
        positions, _ = base.get_rope_index(**named | {"attention_mask": mask})
        return positions

    def number(self, mask: Tensor, generation: bool) -> Tensor:
        return super().number(mask, generation).expand(3, *mask.shape)

    def settle(self, model: PreTrainedModel, positions: Tensor, mask: Tensor, generation: bool) -> Tensor:
        axes = positions[-3:] if positions.ndim == 3 else positions.expand(3, *mask.shape)
        base: Any = model.base_model
        furthest = axes.amax(0).masked_fill(mask == 0, -1).amax(-1)  # the host's own rule
        base.rope_deltas = (furthest + 1 - mask.sum(-1))[:, None]
        # generate wants the columns as text beside them, without gaps: the masks are made from those
        return torch.cat([count_unmasked(mask)[None].to(axes.dtype), axes]) if generation else axes

    def next_position(self, positions: Tensor, mask: Tensor, columns: int) -> Tensor:
        # What generate and a whole forward give it. The furthest position may be another: where the frames are seconds
        # apart, a video reaches further in time than the text after it.
        axes = positions[-3:] if positions.ndim == 3 else positions[None]
        last = (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(-1)
        return axes.amax(0).gather(1, last[:, None])[:, 0] + 1
