"""GLM-4.1V: M-RoPE, one run of image placeholders per frame, followed by the frame's time as text."""

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

    The host finds a video's placeholders by the id of images, and uses the modality only to repeat or split encoded
    features. Passing the features as images therefore makes beam search and chunked prefill work too; with videos the
    bare host fails or gives wrong results.
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

    def embedded_placeholder_id(self, model: PreTrainedModel) -> int:
        return model.config.video_token_id

    def placeholders(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> Tensor:
        filled, types = super().placeholders(model, inputs), inputs.get("mm_token_type_ids")
        return filled if types is None else filled & (types == 2)

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        if inputs.get("pixel_values") is not None:
            raise InputError(f"{self.model_type} hosts accept no images together with a video: pass one or the other")
        return super().encode(model, inputs, chunk)


register_family(Glm4v())
