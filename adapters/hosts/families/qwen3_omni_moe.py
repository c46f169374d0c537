"""Qwen3-Omni, its thinker: deepstack features as in Qwen3-VL, one run of placeholders, audio between them."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family

from .qwen2_5_omni import Thinker
from .qwen3_vl import Qwen3VL


class Qwen3OmniMoe(Thinker, Qwen3VL):
    """``Qwen3OmniMoeThinkerForConditionalGeneration``, also as ``model.thinker`` of the complete model."""

    model_type = "qwen3_omni_moe_thinker"
    classes = ("Qwen3OmniMoeThinkerForConditionalGeneration",)
    frame_text = ""


register_family(Qwen3OmniMoe())
