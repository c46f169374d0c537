"""Mixins for hosts whose images and videos are grids of patches of any size, as in the Qwen-VL families."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.serving.vllm.compression import VideoCompression
from framefold.adapters.serving.vllm.positions import Grid, MediaPositions, media_grid_positions, position_channels

from .questions import VideoQuestions


class PatchGrids(VideoQuestions, MediaPositions):
    """Grids of tokens, and images with their positions."""

    def token_grid(self, patches: Any) -> Grid:
        """Return the (T, H, W) grid of tokens of an image or video, from its grid of patches."""
        t, h, w = map(int, patches)
        side = self.config.vision_config.spatial_merge_size
        return t, h // side, w // side

    def token_grid_of(self, feature: Any) -> Grid:
        """Return the grid of tokens of an image or video in a prompt of the engine."""
        return self.token_grid(feature.data[f"{feature.modality}_grid_thw"].data)

    def with_grid_positions(self, images: Any, image_input: Any) -> tuple[Tensor, ...]:
        """Return the features of images with their position channels."""
        grids = map(self.token_grid, image_input["image_grid_thw"].tolist())
        return tuple(
            torch.cat([image, position_channels(media_grid_positions(grid), 0, image)], 1)
            for image, grid in zip(images, grids, strict=True)
        )

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, image_input: Any) -> tuple[Tensor, ...]:
        return self.with_grid_positions(image_embeds_split, image_input)


class FramedGrids(PatchGrids, VideoCompression):
    """Hosts whose videos have one run of placeholders for each frame, with text between them.

    Which tokens of a frame are kept is known only when the video is encoded. The prompt therefore has all placeholders
    in the first frame, and the model replaces all rows of a video, the text too.
    """

    def advance(self, feature: Any) -> int:
        t, h, w = self.token_grid_of(feature)
        if feature.modality == "image":
            return max(h, w)
        texts = feature.mm_position.length - self.framefold_settings.count(h * w, t)
        return texts + t * max(h, w)


class PatchRuns(PatchGrids, VideoCompression):
    """Hosts whose videos are one run of placeholders, with one position in time for each step of the grid."""

    def step(self, fields: Any) -> float | Tensor:
        """Return the distance of two steps of a video's grid in time, from its fields that the engine keeps."""
        return 1.0

    def advance(self, feature: Any) -> int:
        grid = self.token_grid_of(feature)
        if feature.modality == "image" or self.framefold_settings.positions == "preserve":
            return max(grid[1:])
        return int(media_grid_positions(grid, self.step(feature.data)).max()) + 1

    def compress_run(
        self, video: Tensor, grid: Grid, question: Tensor | None, step: float | Tensor = 1.0, times: Any = None
    ) -> Tensor:
        """Return the (K, D + CHANNELS) tokens of a video with their position channels.

        Args:
            video: (T*H*W, D) features.
            grid: (T, H, W).
            question: (Q, D) embeddings, or None.
            step: see :meth:`step`.
            times: (T,) seconds, or None if the host does not know them.
        """
        tokens, (features,) = self.compress_video(Encoded.from_grid(video.unflatten(0, grid), times=times), question)
        positions = media_grid_positions(grid, step)[tokens.index.cpu()]
        return torch.cat([features, position_channels(positions, 0, features)], 1)
