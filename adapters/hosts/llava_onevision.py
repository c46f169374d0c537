"""LLaVA-OneVision: 1-D positions, one run of placeholders a video, one newline token after the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from ..errors import InputError
from .family import Encoded, Family, register_family

_SELECT = ("vision_feature_layer", "vision_feature_select_strategy")


class LlavaOnevision(Family):
    """``LlavaOnevisionForConditionalGeneration``: T * ceil(side / 2)^2 + 1 tokens a video, the last the newline."""

    model_type = "llava_onevision"
    classes = ("LlavaOnevisionForConditionalGeneration",)
    vision_inputs = (
        "pixel_values_videos",
        "image_sizes_videos",
        "pixel_values",
        "image_sizes",
        "batch_num_images",
        "vision_aspect_ratio",
        *_SELECT,
    )

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = -(-(vision.image_size // vision.patch_size) // 2)  # the host pools 2 x 2, rounding up
        return side, side

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Encoded]:
        pixels = inputs[self.pixels]
        if isinstance(pixels, Tensor):
            return self._encode(model, pixels, inputs)
        clips = (clip[None] if clip.ndim == 4 else clip for clip in pixels)  # a list: unequal lengths do not stack
        return [video for clip in clips for video in self._encode(model, clip, inputs)]

    def _encode(self, model: PreTrainedModel, pixels: Tensor, inputs: Mapping[str, Any]) -> list[Encoded]:
        if pixels.ndim != 5 or pixels.numel() == 0:
            raise InputError(
                f"{self.pixels} must be (videos, frames, channels, height, width) and not empty,"
                f" got {tuple(pixels.shape)}"
            )
        select = {name: inputs.get(name) for name in _SELECT}
        base: Any = model.base_model
        output = base.get_video_features(pixels, **select, return_dict=True)
        h, w = self.grid(model)
        t, cells = pixels.shape[1], pixels.shape[1] * h * w
        on_grid = torch.ones(cells + 1, dtype=torch.bool, device=output.pooler_output.device)
        on_grid[-1] = False
        return [
            Encoded(features=video[:cells].unflatten(0, (t, h, w)), extra=video[cells:], on_grid=on_grid)
            for video in output.pooler_output
        ]

    def encode_images(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> ModelOutput:
        arguments = {name: inputs.get(name) for name in ("image_sizes", "batch_num_images", *_SELECT)}
        base: Any = model.base_model
        return base.get_image_features(inputs[self.images], **arguments, return_dict=True)

    def pack(self, groups: list[Tensor]) -> ModelOutput:
        # The host flattens the first two dimensions, so this must be one tensor.
        equal = len({len(group) for group in groups}) == 1
        features = torch.stack(groups) if equal else torch.cat(groups)[None]
        return BaseModelOutputWithPooling(pooler_output=features)


register_family(LlavaOnevision())
