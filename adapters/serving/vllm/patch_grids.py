"""Mixin for hosts whose images and videos are grids of patches of any size, as in the Qwen-VL families."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .positions import Grid, MediaPositions, media_grid_positions, position_channels


class PatchGrids(MediaPositions):
    """Grids of tokens, and images with their positions."""

    def token_grid(self, patches: Any) -> Grid:
        """Return the (T, H, W) grid of tokens of an image or video, from its grid of patches."""
        t, h, w = map(int, patches)
        side = self.config.vision_config.spatial_merge_size
        return t, h // side, w // side

    def token_grid_of(self, feature: Any) -> Grid:
        """Return the grid of tokens of an image or video in a prompt of the engine."""
        return self.token_grid(feature.data[f"{feature.modality}_grid_thw"].data)

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, image_input: Any) -> tuple[Tensor, ...]:
        grids = map(self.token_grid, image_input["image_grid_thw"].tolist())
        return tuple(
            torch.cat([image, position_channels(media_grid_positions(grid), 0, image)], 1)
            for image, grid in zip(image_embeds_split, grids, strict=True)
        )
