"""Arguments of one image for the tiny hosts that take images beside a video."""

from __future__ import annotations

from typing import Any

import torch

from tests.support.hosts.bare_hosts import MROPE_HOSTS, Host


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def patch_image(width: int, **more: Any) -> dict[str, Any]:
    """Return an image of 4 x 4 patches; the frames of videos have 4 x 6."""
    return {"pixel_values": noise(16, width), "image_grid_thw": torch.tensor([[1, 4, 4]]), **more}


def image_arguments(host: Host) -> dict[str, Any]:
    """Return the arguments of one image, by the names of the host's processor."""
    if host.name == "video_llama_3":
        return patch_image(48, image_merge_sizes=torch.tensor([2]))
    if host.name == "molmo2":
        corners = torch.tensor([0, 2, 8, 10])[:, None] + torch.tensor([0, 1, 4, 5])
        grids = torch.tensor([[2, 2, 0, 0]])
        return {"pixel_values": noise(1, 16, 48), "image_token_pooling": corners, "image_grids": grids}
    if host.name.startswith("gemma4"):
        side, width = (4, 48) if host.name == "gemma4" else (2, 192)
        places = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1).flatten(0, 1)
        return {"pixel_values": noise(1, side * side, width), "image_position_ids": places[None]}
    if host.name in MROPE_HOSTS:
        return patch_image(96)
    if host.name == "video_llava":
        return {"pixel_values_images": noise(1, 3, 16, 16)}
    return {"pixel_values": noise(1, 2, 3, 16, 16), "image_sizes": torch.tensor([[16, 16]])}
