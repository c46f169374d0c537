"""GLM-4.1V: M-RoPE, one run of placeholders a frame with its time as text after it; frames hold image placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.mrope import MRoPE
from framefold.errors import InputError


class Glm4v(MRoPE):
    """``Glm4vForConditionalGeneration``.

    The host fills a video's placeholders by the id of images and looks up counts by modality only where it repeats or
    cuts encoded features: handed over as images, beams and chunked prefill work too (with videos they fail or go wrong
    without any plug).
    """

    model_type = "glm4v"
    classes = ("Glm4vForConditionalGeneration",)
    frame_text = r"(?<=<\|end_of_image\|>)\d+(?=<\|(?:begin_of_image|end_of_video)\|>)"  # whole seconds
    modality = "image"
    read_directly = ("visual.embeddings.position_embedding.weight",)

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = vision.image_size // vision.patch_size // vision.spatial_merge_size
        return side, side

    def placeholder_id(self, model: PreTrainedModel) -> int:
        return model.config.image_token_id

    def placeholders(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        filled, types = super().placeholders(model, inputs), inputs.get("mm_token_type_ids")
        return filled if types is None else filled & (types == 2)

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Encoded]:
        if inputs.get("pixel_values") is not None:
            raise InputError("glm4v hosts in transformers take no image beside a video: pass one of them")
        return super().encode(model, inputs)


register_family(Glm4v())
