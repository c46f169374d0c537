"""Qwen3.5: as Qwen3-VL without deepstack features; three of four layers of its language model are recurrent."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.mrope import MRoPE

from .qwen3_vl import Qwen3VL


class Qwen3_5(MRoPE):
    """``Qwen3_5ForConditionalGeneration``; the time of a frame stays even if all its tokens are dropped."""

    model_type = "qwen3_5"
    classes = ("Qwen3_5ForConditionalGeneration",)
    frame_text = Qwen3VL.frame_text
    recurrent = True
    norm_offset = 1.0
    grid = Qwen3VL.grid


register_family(Qwen3_5())
