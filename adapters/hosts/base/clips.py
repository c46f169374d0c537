"""Base class of hosts that take a video as frames of one size: (videos, frames, channels, height, width) pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import ModelOutput

from framefold.errors import InputError

from .encoded import Encoded
from .family import Family, features_of


class Clips(Family):
    """Base class of such hosts; a family defines how the features of a video form its grid (:meth:`split`).

    Attributes:
        tail: number of tokens that the host adds after the last frame of a video.
    """

    tail: ClassVar[int] = 0

    vision_inputs: ClassVar[tuple[str, ...]] = (
        "pixel_values_videos",
        "pixel_values",
        "image_sizes",
        "vision_feature_layer",
        "vision_feature_select_strategy",
    )

    def split(self, model: PreTrainedModel, features: Tensor, frames: int) -> Encoded:
        """Return one video from its (tokens, D) features."""
        return Encoded.from_grid(features.unflatten(0, (frames, *self.grid(model))))

    def blank_video(self, model: PreTrainedModel, frames: int, height: int, width: int) -> dict[str, Any]:
        side = model.config.vision_config.image_size
        return {self.pixels: torch.zeros(1, frames, 3, side, side)}

    def encode(self, model: PreTrainedModel, inputs: Mapping[str, Any], chunk: int | None = None) -> list[Encoded]:
        pixels = inputs[self.pixels]
        if isinstance(pixels, Tensor):
            return self._encode(model, pixels, inputs, chunk)
        if not isinstance(pixels, (list, tuple)) or not all(isinstance(clip, Tensor) for clip in pixels):
            kind = type(pixels).__name__
            raise InputError(f"{self.pixels} must be a tensor (return_tensors='pt') or a list of them, got {kind}")
        clips = (clip[None] if clip.ndim == 4 else clip for clip in pixels)  # videos of unequal length are not stacked
        return [video for clip in clips for video in self._encode(model, clip, inputs, chunk)]

    def _encode(
        self, model: PreTrainedModel, pixels: Tensor, inputs: Mapping[str, Any], chunk: int | None
    ) -> list[Encoded]:
        if pixels.ndim != 5 or pixels.numel() == 0:
            raise InputError(
                f"{self.pixels} must be (videos, frames, channels, height, width) and not empty,"
                f" got {tuple(pixels.shape)}"
            )
        if chunk is None:
            videos = self._features(model, pixels, inputs).chunk(len(pixels))
        else:
            videos = tuple(self._features_in_chunks(model, video, inputs, chunk) for video in pixels)
        return [self.split(model, video, pixels.shape[1]) for video in videos]

    def _features(self, model: PreTrainedModel, pixels: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        output = features_of(model, "video", {**inputs, self.pixels: pixels}).pooler_output
        # hosts, and versions of transformers, split the features differently
        return torch.cat([part.flatten(0, -2) for part in output])

    def _features_in_chunks(
        self, model: PreTrainedModel, video: Tensor, inputs: Mapping[str, Any], chunk: int
    ) -> Tensor:
        """Return the (tokens, D) features of a video, encoded some frames at a time."""
        parts = [self._features(model, frames[None], inputs) for frames in video.split(chunk)]
        return torch.cat([*(part[: len(part) - self.tail] for part in parts[:-1]), parts[-1]])

    def attention_grids(
        self, model: PreTrainedModel, inputs: Mapping[str, Any], clips: list[Encoded], received: list[Tensor]
    ) -> list[Tensor | None]:
        frames = pool_patches(torch.cat(received), self.grid(model))
        return list(frames.split([clip.features.shape[0] for clip in clips]))

    def pack(self, streams: list[list[Tensor]]) -> ModelOutput:
        return BaseModelOutputWithPooling(pooler_output=one_tensor(streams[0]))


def one_tensor(groups: list[Tensor]) -> Tensor:
    """Stack groups to (groups, N, D), or join groups of unequal length to (1, sum of N, D).

    This suits hosts that flatten the first two dimensions anyway.
    """
    equal = len({len(group) for group in groups}) == 1
    return torch.stack(groups) if equal else torch.cat(groups)[None]


def pool_patches(received: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return (F, H, W) means of the attention that the patches of F square frames received.

    Args:
        received: (F, L) attention; the patches are the last side^2 values, tokens before them are ignored.
        grid: (H, W).
    """
    side = math.isqrt(received.shape[1])
    patches = received[:, -(side * side) :].unflatten(1, (side, side))
    return nn.functional.adaptive_avg_pool2d(patches[:, None], grid)[:, 0]
