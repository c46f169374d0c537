"""LLaVA-OneVision: 1-D positions, one run of placeholders per video, one newline token after the grid."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.clips import Clips
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import register_family


class LlavaOnevision(Clips):
    """``LlavaOnevisionForConditionalGeneration``: T * ceil(side / 2)^2 + 1 tokens per video, the last a newline."""

    model_type = "llava_onevision"
    classes = ("LlavaOnevisionForConditionalGeneration",)
    tail = 1
    vision_inputs = (*Clips.vision_inputs, "image_sizes_videos", "batch_num_images", "vision_aspect_ratio")

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = -(-(vision.image_size // vision.patch_size) // 2)  # the host pools 2 x 2, rounding up
        return side, side

    def split(self, model: PreTrainedModel, features: Tensor, frames: int) -> Encoded:
        grid = features[:-1].unflatten(0, (frames, *self.grid(model)))
        on_grid = torch.arange(len(features), device=features.device) < len(features) - 1
        return Encoded(grid, features[-1:], on_grid)


register_family(LlavaOnevision())
