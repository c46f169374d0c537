"""Qwen3.5 with a mixture-of-experts language model; everything else is as in Qwen3.5."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family

from .qwen3_5 import Qwen3_5


class Qwen3_5Moe(Qwen3_5):
    """``Qwen3_5MoeForConditionalGeneration``."""

    model_type = "qwen3_5_moe"
    classes = ("Qwen3_5MoeForConditionalGeneration",)


register_family(Qwen3_5Moe())
