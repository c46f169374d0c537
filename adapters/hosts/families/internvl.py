"""InternVL: 1-D positions; frames are images of one tile each after text such as "Frame1: ", counted in every video."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.clips import one_tensor
from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.image_runs import CLIPS, FrameText, ImageRuns


class InternVL(ImageRuns):
    """``InternVLForConditionalGeneration``: (side * downsample_ratio)^2 tokens per image."""

    model_type = "internvl"
    classes = ("InternVLForConditionalGeneration",)
    frame_text = r"Frame(?P<number>\d+):"
    vision_inputs = ("pixel_values", "vision_feature_layer", "vision_feature_select_strategy", "image_sizes", CLIPS)

    def read_frame_text(self, match: re.Match[str]) -> FrameText:
        number = int(match["number"])
        return FrameText(number, begins=number == 1, counted=True)

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = int(_first(vision.image_size) // _first(vision.patch_size) * model.config.downsample_ratio)
        return side, side  # the host accepts square images only

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        return BaseModelOutputWithPooling(pooler_output=one_tensor(streams[0]))


def _first(size: Any) -> int:
    return size if isinstance(size, int) else size[0]


register_family(InternVL())
