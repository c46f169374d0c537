"""GLM-4.6V: as GLM-4.1V, with times that have a decimal and a unit."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family

from .glm4v import Glm4v


class Glm46V(Glm4v):
    """``Glm46VForConditionalGeneration``."""

    model_type = "glm46v"
    classes = ("Glm46VForConditionalGeneration",)
    frame_text = r"(?<=<\|end_of_image\|>)\d+\.\d seconds(?=<\|(?:begin_of_image|end_of_video)\|>)"


register_family(Glm46V())
