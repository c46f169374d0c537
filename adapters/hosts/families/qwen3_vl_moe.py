"""Qwen3-VL with a mixture-of-experts language model; everything else is as in Qwen3-VL."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family

from .qwen3_vl import Qwen3VL


class Qwen3VLMoe(Qwen3VL):
    """``Qwen3VLMoeForConditionalGeneration``."""

    model_type = "qwen3_vl_moe"
    classes = ("Qwen3VLMoeForConditionalGeneration",)


register_family(Qwen3VLMoe())
