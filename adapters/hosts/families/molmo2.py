"""Molmo 2: 1-D positions, one run of placeholders per frame behind its time as text, tokens that pool patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family, features_of, register_family
from framefold.errors import InputError

GRIDS, POOLING = "video_grids", "video_token_pooling"


class Molmo2(Family):
    """``Molmo2ForConditionalGeneration``; the tokens of all frames that are kept still see each other."""

    model_type = "molmo2"
    classes = ("Molmo2ForConditionalGeneration",)
    images = ()
    frame_text = r"(?<=>)\d+\.\d|\d\.\d"  # after the frame before, or after other text
    vision_inputs = ("pixel_values_videos", "pixel_values", POOLING, GRIDS,
                     "image_token_pooling", "image_grids", "image_num_crops")  # fmt: skip

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        return 9, 9  # nominal: 27 x 27 patches of a frame, three by three

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        """Frames have one size, whatever that of the video; tokens pool 3 x 3 patches, as the processor lets them."""
        vision = model.config.vision_config
        h, w = (side // vision.patch_size for side in vision.image_size)
        rows, columns = -(-h // 3), -(-w // 3)
        places = torch.full((rows * 3, columns * 3), -1)
        places[:h, :w] = torch.arange(h * w).view(h, w)
        each = places.view(rows, 3, columns, 3).transpose(1, 2).reshape(-1, 9)
        pooling = torch.cat([torch.where(each < 0, -1, each + frame * h * w) for frame in range(frames)])
        grids = torch.tensor([[frames, rows, columns]])
        types = torch.ones(1, len(pooling), dtype=torch.long)
        pixels = torch.zeros(frames, h * w, 3 * vision.patch_size**2)
        return {self.pixels: pixels, GRIDS: grids, POOLING: pooling, "mm_token_type_ids": types}

    def prefills_in_chunks(self, model: PreTrainedModel) -> bool:
        return False

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        if inputs.get("pixel_values") is not None:
            raise InputError("molmo2 hosts accept no images together with a video: pass one or the other")
        if inputs.get("mm_token_type_ids") is None:  # without them, the host drops a mask of ones and sees gaps
            raise InputError("pass mm_token_type_ids with a video; the processor returns them with input_ids")
        pixels, grids, pooling = (inputs.get(name) for name in (self.pixels, GRIDS, POOLING))
        if not isinstance(pixels, Tensor) or pixels.ndim != 3 or pixels.numel() == 0:
            raise InputError(f"{self.pixels} must be a tensor (frames, patches, values), not empty")
        if not isinstance(grids, Tensor) or grids.shape[1:] != (3,) or int(grids[:, 0].sum()) != len(pixels):
            raise InputError(f"{GRIDS} must be (videos, 3) with {len(pixels)} frames in all; the processor returns it")
        tokens = int(grids.prod(-1).sum())
        if not isinstance(pooling, Tensor) or len(pooling) != tokens or int(grids.min()) < 1:
            raise InputError(f"{POOLING} must have a row for each of {tokens} tokens; the processor returns it")
        parts = [inputs] if chunk is None else self._in_chunks(inputs, chunk)
        features = torch.cat([one for part in parts for one in features_of(model, "video", part).pooler_output])
        clips = zip(features.split(grids.prod(-1).tolist()), grids.tolist(), strict=True)
        return [Encoded.from_grid(clip.unflatten(0, shape)) for clip, shape in clips]

    def _in_chunks(self, inputs: Mapping[str, Any], chunk: int) -> Iterator[dict[str, Any]]:
        """Yield the inputs of some frames at a time, each as a video of its own; tokens name their patches anew."""
        pixels, pooling, grids = inputs[self.pixels], inputs[POOLING], inputs[GRIDS]
        frames = grids.repeat_interleave(grids[:, 0], 0).index_fill(1, torch.zeros_like(grids[0, :1]), 1)
        rows = pooling.split(frames.prod(-1).tolist())
        for start in range(0, len(pixels), chunk):
            some = torch.cat(rows[start : start + chunk])
            shifted = torch.where(some < 0, some, some - start * pixels.shape[1])
            yield {
                **inputs,
                self.pixels: pixels[start : start + chunk],
                POOLING: shifted,
                GRIDS: frames[start : start + chunk],
            }

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        pooled = inputs[POOLING] >= 0  # the others are padding
        values = torch.cat(received).flatten()[inputs[POOLING].clamp(min=0)]
        means = ((values * pooled).sum(-1) / pooled.sum(-1)).split([len(clip) for clip in clips])
        return [part.view(clip.features.shape[:3]) for clip, part in zip(clips, means, strict=True)]

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        return BaseModelOutputWithPooling(pooler_output=tuple(streams[0]))  # type: ignore[arg-type]


register_family(Molmo2())
