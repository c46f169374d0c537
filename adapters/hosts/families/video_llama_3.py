"""VideoLLaMA 3: 1-D positions, one run of placeholders per video, a separate merge size for each video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import register_family
from framefold.adapters.hosts.base.patches import Patches
from framefold.errors import InputError

_SIZES, _MASK = "video_merge_sizes", "video_compression_mask"


class VideoLlama3(Patches):
    """``VideoLlama3ForConditionalGeneration``; needs a dense grid, so the processor's own compression must be off."""

    model_type = "video_llama_3"
    classes = ("VideoLlama3ForConditionalGeneration",)
    frame_text = r",?Time \d+\.\ds:"
    vision = "vision_model"
    per_video = (_SIZES,)
    vision_inputs = (*Patches.vision_inputs, _SIZES, "image_merge_sizes", _MASK)

    def merge_size(self, model: PreTrainedModel) -> int:
        return 2  # which the processor of the released hosts sets for videos

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        return {**super().blank_video(model, frames, height, width), _SIZES: torch.tensor([self.merge_size(model)])}

    def merge_sizes(self, model: PreTrainedModel, inputs: Mapping[str, Any], videos: int) -> list[int]:
        sizes = inputs.get(_SIZES)
        if not isinstance(sizes, Tensor) or sizes.shape != (videos,) or int(sizes.min()) < 1:
            raise InputError(f"{_SIZES} must be ({videos},) positive numbers; the processor returns it")
        return sizes.tolist()

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        mask = inputs.get(_MASK)
        if mask is not None and not bool(mask.all()):
            raise InputError(
                f"{_MASK} shows that the processor has already pruned the video: call it with"
                " use_token_compression=False, because the attached compressor needs the full video"
            )
        return super().encode(model, inputs, chunk)


register_family(VideoLlama3())
