"""SmolVLM: 1-D positions; frames are images of one tile each, after text with their times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.image_runs import CLIPS, FrameText, ImageRuns


class SmolVLM(ImageRuns):
    """``SmolVLMForConditionalGeneration``: (side / scale_factor)^2 tokens per image.

    The host treats images of zeros as padding, so a black frame fails with and without a compressor.
    """

    model_type = "smolvlm"
    classes = ("SmolVLMForConditionalGeneration",)
    frame_text = (
        r"(?P<introduction>You are provided the following series of [\w,-]* frames from a [\w:,]+ \[H:MM:SS\] video\.)?"
        r"Frame from (?P<minutes>\d{2,}):(?P<seconds>\d\d):"
    )
    vision = "vision_model"
    vision_inputs = ("pixel_values", "pixel_attention_mask", CLIPS)
    language = "text_model"

    def read_frame_text(self, match: re.Match[str]) -> FrameText:
        seconds = 60 * int(match["minutes"]) + int(match["seconds"])
        return FrameText(seconds, True if match["introduction"] else None)

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size // model.config.scale_factor
        return side, side

    def split_images(self, inputs: Mapping[str, Any], chunk: int) -> Iterable[Mapping[str, Any]]:
        names = [name for name in (self.pixels, "pixel_attention_mask") if inputs.get(name) is not None]
        images = {name: inputs[name].flatten(0, 1) for name in names}
        real = images[self.pixels].flatten(1).any(dim=1)  # the others are padding of rows with fewer images
        for part in real.nonzero()[:, 0].split(chunk):
            yield {**inputs, **{name: value[part][None] for name, value in images.items()}}

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        inputs = super().blank_video(model, frames, height, width)
        return {**inputs, self.pixels: inputs[self.pixels][None]}

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        # images of one token each, because transformers 5.20 requires each row to have placeholders for full images
        return BaseModelOutputWithPooling(pooler_output=torch.cat(streams[0])[:, None])


register_family(SmolVLM())
