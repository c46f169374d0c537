"""Qwen2.5-Omni, its thinker: as Qwen2.5-VL, with audio that may be interleaved with the video by time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.mrope import MRoPE
from framefold.adapters.hosts.base.patches import GRIDS
from framefold.errors import InputError

from .qwen2_5_vl import Qwen2_5VL, step_times

SECONDS = "video_second_per_grid"


class Thinker(MRoPE):
    """The part of an omni model that reads and writes text; the columns of audio are kept, as those of text."""

    vision_inputs = (*MRoPE.vision_inputs, SECONDS, "use_audio_in_video")

    def language_model(self, model: PreTrainedModel) -> nn.Module:
        base: Any = model.base_model  # before transformers 5.23, the thinker itself
        return getattr(base, "language_model", None) or base.model

    def times(self, model: PreTrainedModel, inputs: Mapping[str, Any], video: int, frames: int) -> Tensor | None:
        return step_times(inputs, SECONDS, video, frames)

    def positions(self, model: PreTrainedModel, inputs: Mapping[str, Any], mask: Tensor, generation: bool) -> Tensor:
        if inputs.get("input_ids") is None:
            return self._embedded_positions(model, mask, generation)
        if inputs.get("attention_mask") is None and not generation:
            return self.text_positions(mask, generation)  # the host's rule where it gets no mask
        if inputs.get(GRIDS) is None or inputs.get(SECONDS) is None:
            raise InputError(f"pass {GRIDS} and {SECONDS} with a video; the processor returns them")
        base: Any = model.base_model
        heard = inputs.get("feature_attention_mask")
        lengths = inputs.get("audio_feature_lengths") if heard is None else heard.sum(-1)
        positions, _ = base.get_rope_index(
            inputs["input_ids"],
            inputs.get("image_grid_thw"),
            inputs[GRIDS],
            mask,
            inputs.get("use_audio_in_video") or False,
            lengths,
            torch.as_tensor(inputs[SECONDS]),
        )
        return positions


class Qwen2_5Omni(Thinker, Qwen2_5VL):
    """``Qwen2_5OmniThinkerForConditionalGeneration``, also as ``model.thinker`` of the complete model."""

    model_type = "qwen2_5_omni_thinker"
    classes = ("Qwen2_5OmniThinkerForConditionalGeneration",)
    videos_span_time = False  # text follows the largest position on any axis
    frame_text = ""


register_family(Qwen2_5Omni())
