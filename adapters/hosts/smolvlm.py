"""SmolVLM: 1-D positions; frames are images, one tile each, with their times as text between."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from .clips import one_tensor
from .family import register_family
from .image_runs import CLIPS, ImageRuns


class SmolVLM(ImageRuns):
    """``SmolVLMForConditionalGeneration``: (side / scale_factor)^2 tokens an image.

    The host takes images of zeros for padding, so a black frame fails with and without a compressor.
    """

    model_type = "smolvlm"
    classes = ("SmolVLMForConditionalGeneration",)
    vision_inputs = ("pixel_values", "pixel_attention_mask", CLIPS)
    language = "text_model"

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size // model.config.scale_factor
        return side, side

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        return BaseModelOutputWithPooling(pooler_output=one_tensor(streams[0]))


register_family(SmolVLM())
