"""Resampling with anchored queries: given tokens attend to a memory, and before training nothing changes.

Learned queries that replace the tokens, as in the Perceiver resampler and the Q-Former, start with noise and are fixed
in number. Here a token of a training-free method is the query, so there are as many as the budget, and each has a time
and a place in the video.
Dimensions: k queries, W windows of M tokens, L words, D width, C width of the blocks, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .cross_attention import CrossAttentionBlock


class AnchoredResampler(nn.Module):
    """Returns by how much attention to a memory changes the queries.

    The last linear layers before the output start at zero: those of the blocks or, if C differs from D, the one that
    leads back to D. So the change starts at exactly zero, and every other parameter gets a gradient after one step.

    Args:
        width: D.
        inner: C; if it is not D, linear layers lead to it and back.
        layers: number of blocks.
        heads: number of attention heads of a block.
        features: F of the queries.
        place_features: F of the memory.
        asks: add a block before each one, in which the queries attend to the words of the question.
        passes: how often the queries pass through all blocks.

    Raises:
        ConfigError: C is not divisible by the heads.
    """

    def __init__(
        self,
        width: int,
        inner: int,
        layers: int,
        heads: int,
        features: int,
        place_features: int,
        asks: bool = False,
        passes: int = 1,
    ) -> None:
        super().__init__()
        self.passes = passes
        narrow = inner != width
        self.down = nn.Linear(width, inner) if narrow else None
        self.up = nn.Linear(inner, width, bias=False) if narrow else None
        self.when = nn.Linear(features, inner, bias=False)
        self.place = nn.Linear(place_features, inner, bias=False)
        for layer in (self.when, self.place, self.up):
            if layer is not None:
                nn.init.zeros_(layer.weight)

        def blocks(count: int) -> nn.ModuleList:
            own = [CrossAttentionBlock(inner, heads, heads, identity=not narrow, key_bias=False) for _ in range(count)]
            return nn.ModuleList(own)

        self.blocks, self.asking = blocks(layers), blocks(layers * asks)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights, which all inputs must have."""
        return self.when.weight.dtype

    def forward(
        self,
        tokens: Tensor,
        memory: Tensor,
        features: Tensor,
        places: Tensor,
        window: Tensor,
        words: Tensor | None = None,
    ) -> Tensor:
        """Return the (k, D) change of the tokens.

        Args:
            tokens: (k, D), of RMS around 1.
            memory: (W, M, D), of RMS around 1.
            features: (k, F) of the tokens, added to the queries.
            places: (W, M, F) of the memory, added to the normalized keys.
            window: (k,) int64 window of the memory that each token attends to.
            words: (L, D) embeddings of the question; for ``asks``.
        """
        start = self._narrow(tokens) + self.when(features)
        row = _rows_in_windows(window)
        x = start.new_zeros(len(memory), int(row.max()) + 1, start.shape[1]).index_put((window, row), start)
        keys, position = self._narrow(memory), self.place(places)
        asked = self._narrow(words).expand(len(memory), -1, -1) if self.asking and words is not None else None
        for i in list(range(len(self.blocks))) * self.passes:
            if asked is not None:
                x = self._block(self.asking[i]).read(x, asked)
            x = self._block(self.blocks[i]).read(x, keys, position)
        change: Tensor = x[window, row] - start
        return change if self.up is None else self.up(change)

    def _narrow(self, x: Tensor) -> Tensor:
        return x if self.down is None else self.down(x)

    @staticmethod
    def _block(module: nn.Module) -> CrossAttentionBlock:
        assert isinstance(module, CrossAttentionBlock)
        return module


def _rows_in_windows(window: Tensor) -> Tensor:
    """Return the (k,) rank of each query among those of its window; ``window`` is ascending."""
    count = torch.bincount(window)
    return torch.arange(len(window), device=window.device) - (count.cumsum(0) - count)[window]


class TokenRebuilder(nn.Module):
    """Predicts every token of a video from the compressed ones, for a loss that needs no labels.

    The queries encode times and places only, so whatever is predicted must be in the compressed tokens. It is used in
    training alone.

    Args:
        width: D.
        inner: C, width of the block.
        heads: number of attention heads.
        features: F.
    """

    def __init__(self, width: int, inner: int, heads: int, features: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(features, inner), nn.Linear(features, inner, bias=False)
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.block = CrossAttentionBlock(inner, heads, heads, key_bias=False)

    def forward(self, tokens: Tensor, features: Tensor, wanted: Tensor) -> Tensor:
        """Return (N, D) predictions.

        Args:
            tokens: (k, D) compressed tokens, of RMS around 1.
            features: (k, F) of their times and places.
            wanted: (N, F) of the tokens to predict.
        """
        keys, position = self.down(tokens)[None], self.key(features)[None]
        predicted: Tensor = self.up(self.block.read(self.query(wanted)[None], keys, position)[0])
        return predicted


def rebuild_loss(predicted: Tensor, tokens: Tensor) -> Tensor:
    """Return the mean over N tokens of 1 - cosine to their predictions, a scalar in fp32 or wider."""
    wide = torch.promote_types(tokens.dtype, torch.float32)
    return 1 - nn.functional.cosine_similarity(predicted.to(wide), tokens.detach().to(wide), dim=-1).mean()
