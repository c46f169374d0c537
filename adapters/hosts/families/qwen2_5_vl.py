"""Qwen2.5-VL: M-RoPE with temporal positions proportional to seconds, one run of placeholders per video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.mrope import MRoPE
from framefold.adapters.hosts.base.patches import GRIDS
from framefold.errors import InputError


class Qwen2_5VL(MRoPE):
    """``Qwen2_5_VLForConditionalGeneration``; compressors get the times of the frames from ``second_per_grid_ts``."""

    model_type = "qwen2_5_vl"
    classes = ("Qwen2_5_VLForConditionalGeneration",)
    frame_text = r"Video \d+:"  # written by its chat template with add_vision_id=True
    videos_span_time = True
    vision_inputs = (*MRoPE.vision_inputs, "second_per_grid_ts")
    needs_token_types = False

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        from transformers.vision_utils import get_vision_window_index

        config: Any = model.config.vision_config
        side = config.spatial_merge_size
        order, _ = get_vision_window_index(inputs[GRIDS], side, config.window_size, config.patch_size)
        windows = torch.cat([part.flatten() for part in received])  # inside the blocks, tokens are ordered by window
        raster = torch.empty_like(windows).unflatten(0, (-1, side * side))
        raster[order.to(windows.device)] = windows.unflatten(0, (-1, side * side))
        return super().attention_grids(model, inputs, clips, [raster])

    def times(self, model: PreTrainedModel, inputs: Mapping[str, Any], video: int, frames: int) -> Tensor | None:
        return step_times(inputs, "second_per_grid_ts", video, frames)


def step_times(inputs: Mapping[str, Any], name: str, video: int, frames: int) -> Tensor | None:
    """Return the (T,) seconds of the frames of a video, from an argument with the seconds of a step per video.

    Raises:
        InputError: the argument has no seconds for the video.
    """
    steps = inputs.get(name)
    if steps is None:
        return None
    try:
        seconds = torch.as_tensor(steps, dtype=torch.float32).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be seconds, one value per video: {error}") from error
    if len(seconds) <= video:
        raise InputError(f"{name} has {len(seconds)} entries, but there are more videos")
    return torch.arange(frames, dtype=torch.float32) * float(seconds[video])


register_family(Qwen2_5VL())
