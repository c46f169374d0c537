"""Gemma 4 without encoders: patches are merged by the processor and only projected into the language model."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.family import register_family
from framefold.errors import UnsupportedHostError

from .gemma4 import Gemma4


class Gemma4Unified(Gemma4):
    """``Gemma4UnifiedForConditionalGeneration``: a token per patch; there is no attention among patches to collect."""

    model_type = "gemma4_unified"
    classes = ("Gemma4UnifiedForConditionalGeneration",)
    vision = "embed_vision"

    def side(self, model: PreTrainedModel) -> int:
        return 1

    def patch(self, model: PreTrainedModel) -> int:
        vision = model.config.vision_config
        return vision.patch_size * vision.pooling_kernel_size

    def vision_attention(self, model: PreTrainedModel) -> nn.Module:
        raise UnsupportedHostError(
            "gemma4_unified hosts have no vision encoder, so there is no attention that its patches receive: choose a"
            " compressor that does not need it"
        )


register_family(Gemma4Unified())
