"""Qwen3-VL: M-RoPE, one run of placeholders per frame, preceded by the frame's time as text, deepstack features."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.mrope import MRoPE


class Qwen3VL(MRoPE):
    """``Qwen3VLForConditionalGeneration``; the time of a frame stays even if all its tokens are dropped."""

    model_type = "qwen3_vl"
    classes = ("Qwen3VLForConditionalGeneration",)
    frame_text = r"(?:Video \d+: (?:<\|vision_start\|>)?)?<\d+\.\d seconds>"

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        vision = model.config.vision_config
        side = int(vision.num_position_embeddings**0.5) // vision.spatial_merge_size
        return side, side

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        # imported here, because importing a model is slow and most users have another one
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        features, *deepstack = streams
        # lists, as the host itself returns them, although it annotates tensors
        return BaseModelOutputWithDeepstackFeatures(pooler_output=features, deepstack_features=deepstack)  # type: ignore


register_family(Qwen3VL())
