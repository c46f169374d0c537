"""Qwen2-VL: M-RoPE, one run of placeholders per video."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.mrope import MRoPE


class Qwen2VL(MRoPE):
    """``Qwen2VLForConditionalGeneration``."""

    model_type = "qwen2_vl"
    classes = ("Qwen2VLForConditionalGeneration",)
    frame_text = r"Video \d+:"  # written by its chat template with add_vision_id=True
    videos_span_time = True


register_family(Qwen2VL())
