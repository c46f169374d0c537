"""Base class of hosts that take videos as flat rows of patches and a (T, H, W) grid of patches per video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.errors import InputError

from .encoded import Encoded
from .family import Family, features_of

GRIDS = "video_grid_thw"


class Patches(Family):
    """Base class of such hosts: ``pixel_values_videos`` is (patches, values), ``video_grid_thw`` (videos, 3).

    Attributes:
        per_video: names of further arguments of the vision side with one value per video.
    """

    vision = "visual"
    vision_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos", "pixel_values", GRIDS, "image_grid_thw")
    per_video: ClassVar[tuple[str, ...]] = ()

    def grid(self, model: PreTrainedModel) -> tuple[int, int]:
        return 16, 16  # nominal: frames have any size

    def merge_size(self, model: PreTrainedModel) -> int:
        """Return the usual side in patches of the square that becomes one token."""
        return model.config.vision_config.spatial_merge_size

    def merge_sizes(self, model: PreTrainedModel, inputs: Mapping[str, Any], videos: int) -> list[int]:
        """Return, per video, the side in patches of the square that becomes one token."""
        return [self.merge_size(model)] * videos

    def shapes(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """Return the (T, H, W) token grid of each video.

        Raises:
            InputError: the grids are missing, or do not match the pixels or the merge sizes.
        """
        grids, pixels = inputs.get(GRIDS), inputs.get(self.pixels)
        if not isinstance(grids, Tensor) or grids.ndim != 2 or grids.shape[1] != 3:
            raise InputError(f"{GRIDS} must be (videos, 3) patches in time, height and width; the processor returns it")
        if grids.is_floating_point():
            raise InputError(f"{GRIDS} must be whole numbers, got {grids.dtype}")
        rows: list[list[int]] = grids.tolist()
        if not rows or min(map(min, rows)) < 1:
            raise InputError(f"a video is empty: {GRIDS} is {rows}")
        patches = int(grids.prod(-1).sum())
        if pixels is not None and not isinstance(pixels, Tensor):
            raise InputError(f"{self.pixels} must be a tensor (return_tensors='pt'), got {type(pixels).__name__}")
        if pixels is not None and (pixels.ndim != 2 or len(pixels) != patches):
            raise InputError(f"{self.pixels} must be ({patches}, values) for {GRIDS} {rows}, got {tuple(pixels.shape)}")
        sides = self.merge_sizes(model, inputs, len(rows))
        if any(h % side or w % side for (_, h, w), side in zip(rows, sides, strict=True)):
            raise InputError(f"{GRIDS} {rows} must be divisible by the merge sizes {sides} in height and width")
        return [(t, h // side, w // side) for (t, h, w), side in zip(rows, sides, strict=True)]

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        vision = model.config.vision_config
        patch, merge, steps = vision.patch_size, self.merge_size(model), getattr(vision, "temporal_patch_size", 1)
        h, w = (merge * max(1, round(side / (patch * merge))) for side in (height, width))
        t = -(-frames // steps)
        channels = getattr(vision, "in_channels", None) or vision.num_channels
        pixels = torch.zeros(t * h * w, channels * steps * patch**2)
        return {self.pixels: pixels, GRIDS: torch.tensor([[t, h, w]])}

    def times(self, model: PreTrainedModel, inputs: Mapping[str, Any], video: int, frames: int) -> Tensor | None:
        """Return the (T,) seconds of the frames of a video, if the arguments of the host contain them."""
        return None

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        shapes = self.shapes(model, inputs)
        layers = self._layers(model, inputs) if chunk is None else self._layers_in_chunks(model, inputs, chunk)
        videos = []
        for number, shape in enumerate(shapes):
            features, *deepstack = (layer[number].unflatten(0, shape) for layer in layers)
            times = self.times(model, inputs, number, shape[0])
            videos.append(Encoded.from_grid(features, tuple(deepstack), times))
        return videos

    def _layers(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> list[Any]:
        """Return, for the features and each deepstack layer, one (tokens, D) tensor per video."""
        output = features_of(model, "video", inputs)
        return [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]

    def _layers_in_chunks(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int) -> list[list[Tensor]]:
        """Return the same, encoded some frames at a time; frames do not attend to each other in these encoders."""
        grids, start, videos = inputs[GRIDS], 0, []
        steps = max(1, chunk // getattr(model.config.vision_config, "temporal_patch_size", 1))
        for number, (t, h, w) in enumerate(grids.tolist()):
            sizes = {name: value[number : number + 1] for name, value in inputs.items() if name in self.per_video}
            parts = []
            for first in range(0, t, steps):
                count = min(steps, t - first)
                pixels = inputs[self.pixels][start : start + count * h * w]
                part = {**inputs, **sizes, self.pixels: pixels, GRIDS: grids.new_tensor([[count, h, w]])}
                parts.append([layer[0] for layer in self._layers(model, part)])
                start += count * h * w
            videos.append([torch.cat(layer) for layer in zip(*parts, strict=True)])
        return [list(layer) for layer in zip(*videos, strict=True)]

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        patches = torch.cat([part.flatten() for part in received])
        sides = self.merge_sizes(model, inputs, len(clips))
        videos = patches.split([len(clip) * side**2 for clip, side in zip(clips, sides, strict=True)])
        # the patches of a token are consecutive
        return [
            part.unflatten(0, (*clip.features.shape[:3], -1)).mean(-1) for clip, part in zip(clips, videos, strict=True)
        ]

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        return BaseModelOutputWithPooling(pooler_output=streams[0])  # type: ignore[arg-type]
