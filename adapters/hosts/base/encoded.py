"""A video as encoded by the vision side of a host, and the features that accompany its compressed tokens.

Dimensions: T frames, H W grid, D width, E tokens off the grid, N tokens that are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from framefold.adapters.core.tokens import VideoTokens


@dataclass(frozen=True, eq=False)
class Encoded:
    """One video as it leaves the vision side: a dense grid and the tokens off the grid.

    Attributes:
        features: (T, H, W, D) dense grid, the input of a compressor; T = 0 for a still image, which is never
            compressed.
        extra: (E, D) tokens that belong to no grid cell (a newline, a CLS token per frame); they are always kept.
        on_grid: (T*H*W + E,) bool over the video's placeholders in prompt order; True for a token of the grid, False
            for one of ``extra``.
        deepstack: per tapped layer, (T, H, W, D) features that the language model adds at the same placeholders.
        times: (T,) seconds of the frames, if the host's inputs contain them.
        attention: (T, H, W) attention received in the last vision block, or in a pooling head after it, if it was
            requested.
    """

    features: Tensor
    extra: Tensor
    on_grid: Tensor
    deepstack: tuple[Tensor, ...] = ()
    times: Tensor | None = None
    attention: Tensor | None = None

    @classmethod
    def from_grid(cls, features: Tensor, deepstack: tuple[Tensor, ...] = (), times: Tensor | None = None) -> Encoded:
        """Create a video whose placeholders are its (T, H, W, D) grid and nothing else."""
        on_grid = torch.ones(features.shape[:3].numel(), dtype=torch.bool, device=features.device)
        return cls(features, features.new_zeros(0, features.shape[-1]), on_grid, deepstack, times)

    def __len__(self) -> int:
        """Number of placeholders that the uncompressed video has in the prompt."""
        return self.on_grid.shape[0]

    @property
    def is_still(self) -> bool:
        """Whether this is a still image, which is never compressed."""
        return self.features.shape[0] == 0

    def to(self, device: torch.device) -> Encoded:
        """Return the video on a device."""
        if self.features.device == device:
            return self
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved, deepstack=tuple(layer.to(device) for layer in self.deepstack))

    def streams(self, tokens: VideoTokens | None) -> list[Tensor]:
        """Return what fills the kept placeholders, in prompt order: (N + E, D) features, then each deepstack layer.

        Args:
            tokens: the compressed grid; None for a still image.
        """
        if tokens is None:
            return [self.extra]
        layers = [tokens.features, *(apply_assignment(layer, tokens) for layer in self.deepstack)]
        if not len(self.extra):
            return layers
        order = self.kept_placeholders(tokens).argsort()
        return [torch.cat([layer, self.extra.to(layer)])[order] for layer in layers]

    def kept_placeholders(self, tokens: VideoTokens | None) -> Tensor:
        """Return the (N + E,) int64 placeholders that are kept: those of the tokens' anchors, then the extra ones."""
        extra = (~self.on_grid).nonzero()[:, 0]
        if tokens is None:
            return extra
        anchors = tokens.index if not len(self.extra) else self.on_grid.nonzero()[:, 0][tokens.index]
        return torch.cat([anchors, extra])


def apply_assignment(layer: Tensor, tokens: VideoTokens) -> Tensor:
    """Prune or merge the features of another layer as the tokens were: average over the originals of each token.

    Args:
        layer: (T, H, W, D) features of another layer.
        tokens: N tokens; a token to which no original is assigned takes the features at its anchor.

    Returns:
        (N, D) in the dtype of the layer; for tokens that were only pruned, exactly the features at their anchors.
    """
    flat = layer.flatten(0, 2)
    row, at_anchor = tokens.assign, flat[tokens.index]
    kept = row >= 0
    count = torch.bincount(row[kept], minlength=len(tokens))
    if bool((count <= 1).all()):
        return at_anchor
    wide = torch.promote_types(flat.dtype, torch.float32)
    total = flat.new_zeros(len(tokens), flat.shape[1], dtype=wide).index_add(0, row[kept], flat[kept].to(wide))
    mean = (total / count.clamp(min=1)[:, None]).to(flat.dtype)
    return torch.where((count > 0)[:, None], mean, at_anchor)
