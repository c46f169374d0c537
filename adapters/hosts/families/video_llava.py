"""Video-LLaVA: 1-D positions, one run of placeholders per video, a CLS token before every frame."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.clips import Clips
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import register_family


class VideoLlava(Clips):
    """``VideoLlavaForConditionalGeneration``: T * (1 + side^2) tokens per video.

    The T CLS tokens are not on the grid: they are kept for every budget and never passed to a compressor.
    """

    model_type = "video_llava"
    classes = ("VideoLlavaForConditionalGeneration",)
    images = ("pixel_values", "pixel_values_images")  # processors of transformers 5 still return the older name
    vision_inputs = (*Clips.vision_inputs, "pixel_values_images")
    vision = "video_tower"

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size
        return side, side

    def split(self, model: PreTrainedModel, features: Tensor, frames: int) -> Encoded:
        per_frame = features.unflatten(0, (frames, -1))
        on_grid = torch.ones(per_frame.shape[:2], dtype=torch.bool, device=features.device)
        on_grid[:, 0] = False
        return Encoded(per_frame[:, 1:].unflatten(1, self.grid(model)), per_frame[:, 0], on_grid.flatten())


register_family(VideoLlava())
