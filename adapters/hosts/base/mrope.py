"""Base class of hosts with M-RoPE, where every column of the prompt has a position in time, height and width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.errors import InputError

from .family import count_unmasked, parameters_of
from .patches import GRIDS, Patches

VIDEO_COLUMNS = 2  # in mm_token_type_ids


class MRoPE(Patches):
    """Base class of such hosts. "compact" positions number the shorter prompt like text, on all three axes.

    Attributes:
        needs_token_types: whether the host refuses a video without ``mm_token_type_ids``; other hosts then treat its
            columns as text.
    """

    remembers = ("rope_deltas",)
    needs_token_types = True

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any], mask: Tensor, generation: bool) -> Tensor:
        if inputs.get("input_ids") is None:
            return self._embedded_positions(model, mask, generation)
        if inputs.get("mm_token_type_ids") is None:
            if self.needs_token_types:
                raise InputError("pass mm_token_type_ids with a video; the processor returns them with input_ids")
            return self.text_positions(mask, generation)
        if inputs.get(GRIDS) is None:
            raise InputError(f"pass {GRIDS} with a video; the processor returns it")
        base: Any = model.base_model
        cls: Any = type(base)
        named = {name: inputs[name] for name in parameters_of(cls, "get_rope_index") if name in inputs}
        positions, _ = base.get_rope_index(**named | {"attention_mask": mask})
        return positions

    def move_text_behind_videos(self, positions: Tensor, inputs: Mapping[str, Any], mask: Tensor) -> Tensor:
        kinds = inputs.get("mm_token_type_ids")
        return positions if kinds is None else text_behind_time(positions, kinds == VIDEO_COLUMNS, mask != 0)

    def _embedded_positions(self, model: PreTrainedModel, mask: Tensor, generation: bool) -> Tensor:
        """Return the positions of prompts without token ids, which the host numbers like text."""
        deltas = getattr(model.base_model, "rope_deltas", None)  # of the last prompt, which the host adds in a forward
        if generation or deltas is None:
            return self.text_positions(mask, generation)
        deltas = deltas.repeat_interleave(len(mask) // len(deltas), dim=0).to(mask.device)
        return (count_unmasked(mask) + deltas).expand(3, *mask.shape)

    def text_positions(self, mask: Tensor, generation: bool) -> Tensor:
        return super().text_positions(mask, generation).expand(3, *mask.shape)

    def finalize_positions(self, model: PreTrainedModel, positions: Tensor, mask: Tensor, generation: bool) -> Tensor:
        axes = positions[-3:] if positions.ndim == 3 else positions.expand(3, *mask.shape)
        base: Any = model.base_model
        largest = axes.amax(0).masked_fill(mask == 0, -1).amax(-1)  # the host's own rule
        base.rope_deltas = (largest + 1 - mask.sum(-1))[:, None]
        # generate also needs text positions without gaps, because it derives attention masks from them
        return torch.cat([count_unmasked(mask)[None].to(axes.dtype), axes]) if generation else axes

    def next_position(self, positions: Tensor, mask: Tensor, columns: int) -> Tensor:
        # This is the position that generate and a full forward assign. It is not the largest position plus one: if the
        # frames are seconds apart, a video extends further in time than the text after it.
        axes = positions[-3:] if positions.ndim == 3 else positions[None]
        last = (mask.long() * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(-1)
        return axes.amax(0).gather(1, last[:, None])[:, 0] + 1


def text_behind_time(positions: Tensor, video: Tensor, real: Tensor) -> Tensor:
    """Move what follows each video behind its largest position on any axis, unless it is there already.

    Args:
        positions: (3, B, L) positions of the host.
        video: (B, L) bool, the columns of videos; the run of each video is separated from the next one by text.
        real: (B, L) bool, the columns that are no padding.

    Returns:
        (3, B, L) positions; those inside of videos relative to their first column are as before.
    """
    moved = positions.clone()
    for row in range(len(video)):
        columns = real[row].nonzero()[:, 0]
        axes, inside = positions[:, row, columns], video[row, columns]
        starts = [0, *(inside.diff().nonzero()[:, 0] + 1).tolist()]
        shift, parts = 0, []
        for start, end in zip(starts, [*starts[1:], len(columns)], strict=True):
            parts.append(axes[:, start:end] + shift)
            if bool(inside[start]) and end < len(columns):
                shift += max(int(axes[:, start:end].max()) + 1 - int(axes[:, end].min()), 0)
        if parts and len(columns):
            moved[:, row, columns] = torch.cat(parts, 1)
    return moved
