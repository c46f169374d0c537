"""GLM-4.5V: GLM-4.1V with a mixture-of-experts language model; everything else is as there."""

from __future__ import annotations

from framefold.adapters.hosts.base.family import register_family

from .glm4v import Glm4v


class Glm4vMoe(Glm4v):
    """``Glm4vMoeForConditionalGeneration``."""

    model_type = "glm4v_moe"
    classes = ("Glm4vMoeForConditionalGeneration",)


register_family(Glm4vMoe())
