"""SmolVLM: 1-D positions; frames are images of one tile each, separated by their times as text."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.image_runs import CLIPS, ImageRuns


class SmolVLM(ImageRuns):
    """``SmolVLMForConditionalGeneration``: (side / scale_factor)^2 tokens per image.

    The host treats images of zeros as padding, so a black frame fails with and without a compressor.
    """

    model_type = "smolvlm"
    classes = ("SmolVLMForConditionalGeneration",)
    frame_text = (
        r"(?:You are provided the following series of [\w,-]+ frames from a [\w:,]+ \[H:MM:SS\] video\.)?"
        r"Frame from \d{2,}:\d\d:"
    )
    vision = "vision_model"
    vision_inputs = ("pixel_values", "pixel_attention_mask", CLIPS)
    language = "text_model"

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size // model.config.scale_factor
        return side, side

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        # images of one token each, because transformers 5.20 requires each row to have placeholders for full images
        return BaseModelOutputWithPooling(pooler_output=torch.cat(streams[0])[:, None])


register_family(SmolVLM())
