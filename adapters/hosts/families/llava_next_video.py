"""LLaVA-NeXT-Video: 1-D positions, one run of placeholders per video, frames pooled with a stride."""

from __future__ import annotations

from transformers import PreTrainedModel

from framefold.adapters.hosts.base.clips import Clips
from framefold.adapters.hosts.base.family import register_family


class LlavaNextVideo(Clips):
    """``LlavaNextVideoForConditionalGeneration``: T * floor(side / stride)^2 tokens per video."""

    model_type = "llava_next_video"
    classes = ("LlavaNextVideoForConditionalGeneration",)

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size // model.config.spatial_pool_stride
        return side, side


register_family(LlavaNextVideo())
