"""The visual tokens of one video, exchanged between vision encoder, compressors and language model.

Dimensions: T frames, H x W grid, N tokens, D width. One object holds one video; a batch is a list of them. Nothing is
padded here, so videos of a batch cannot influence each other; hosts pad their own inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from framefold.errors import InputError

Result = TypeVar("Result")

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class VideoTokens:
    """Visual tokens of one video, before or after compression.

    Attributes:
        features: (N, D) token vectors, any floating dtype.
        grid: (T, H, W) of the *uncompressed* video.
        index: (N,) int64 anchor of each token in the flattened T*H*W grid, strictly ascending.
        size: (N,) int64 number of original tokens that each token represents.
        assign: (T*H*W,) int64 output row of each original token, -1 if it was dropped.
        times: (T,) float32 time of each frame in seconds.
        attention: (T*H*W,) attention that each original token received in the vision encoder, or None.
        cache: results that all questions about the video share within one forward pass, see :meth:`once`; None to
            share nothing.
    """

    features: Tensor
    grid: tuple[int, int, int]
    index: Tensor
    size: Tensor
    assign: Tensor
    times: Tensor
    attention: Tensor | None = None
    cache: dict[tuple[int, int], tuple[Any, ...]] | None = field(default=None, repr=False)

    @classmethod
    def from_grid(cls, features: Tensor, times: Tensor | None = None, attention: Tensor | None = None) -> VideoTokens:
        """Wrap the dense token grid of one video.

        Args:
            features: (T, H, W, D) floating-point tensor.
            times: (T,) seconds, ascending; None uses frame numbers.
            attention: (T, H, W) or (T*H*W,) received attention, optional.

        Raises:
            InputError: features are not a tensor, have the wrong number of dimensions, are empty, or are not fp16,
                bf16, fp32 or fp64; or times or attention have the wrong shape or are not finite.
        """
        if not isinstance(features, Tensor):
            raise InputError(f"features must be a tensor (T, H, W, D), got {type(features).__name__}")
        if features.ndim != 4:
            raise InputError(f"features must be (T, H, W, D), got shape {tuple(features.shape)}")
        if features.dtype not in DTYPES:
            raise InputError(f"features must be floating point (fp16, bf16, fp32 or fp64), got {features.dtype}")
        if features.numel() == 0:
            raise InputError(f"the video is empty: features have shape {tuple(features.shape)}")
        t, h, w, d = features.shape
        n, device = t * h * w, features.device
        ids = torch.arange(n, device=device)
        return cls(
            features=features.reshape(n, d),
            grid=(t, h, w),
            index=ids,
            size=torch.ones_like(ids),
            assign=ids,
            times=_times(times, t, device),
            attention=_attention(attention, (t, h, w), device),
        )

    def __len__(self) -> int:
        return self.features.shape[0]

    @property
    def width(self) -> int:
        """D, the width of a token."""
        return self.features.shape[1]

    @property
    def per_frame(self) -> int:
        """H*W, the number of original tokens in a frame."""
        return self.grid[1] * self.grid[2]

    @property
    def is_dense(self) -> bool:
        """Whether every original token is present, as in the output of the vision encoder."""
        t, h, w = self.grid
        return len(self) == t * h * w

    def as_grid(self) -> Tensor:
        """Return a (T, H, W, D) view of a dense video.

        Raises:
            InputError: tokens were dropped or merged, so they do not form a grid.
        """
        if not self.is_dense:
            raise InputError(f"{len(self)} tokens do not fill the {self.grid} grid: compress the dense video first")
        return self.features.reshape(*self.grid, self.width)

    def once(self, owner: object, compute: Callable[[], Result]) -> Result:
        """Return ``compute()``, computed once per owner if the video has a cache.

        A query-aware compressor computes in it what does not depend on the question. Hosts give a video a cache for the
        questions of one forward pass, in which the weights of the owner do not change. An owner with
        ``shares_results = False`` computes anew.
        """
        if self.cache is None or not getattr(owner, "shares_results", True):
            return compute()
        key = id(owner), id(self.features)  # replace(video, features=...) keeps the cache
        if key not in self.cache:
            self.cache[key] = owner, self.features, compute()  # both are kept, so that their ids are not reused
        result: Result = self.cache[key][-1]
        return result

    def keep(self, rows: Tensor) -> VideoTokens:
        """Keep the given rows, with unchanged features, and drop the others.

        Args:
            rows: (K,) int64 row numbers, strictly ascending.

        Returns:
            K tokens; original tokens of dropped rows get assign -1.
        """
        if len(rows) == len(self):
            return self
        new_row = torch.full((len(self) + 1,), -1, dtype=torch.long, device=rows.device)
        new_row[rows] = torch.arange(len(rows), device=rows.device)
        return replace(
            self,
            features=self.features[rows],
            index=self.index[rows],
            size=self.size[rows],
            assign=new_row[self.assign],  # -1 reads the extra last entry, which is -1
        )

    def to(self, *args, **kwargs) -> VideoTokens:
        """Convert the features as :meth:`torch.Tensor.to` does; the other tensors change device, never dtype."""
        features = self.features.to(*args, **kwargs)
        moved = {name: getattr(self, name).to(features.device) for name in ("index", "size", "assign", "times")}
        attention = None if self.attention is None else self.attention.to(features.device)
        return replace(self, features=features, attention=attention, **moved)


@dataclass(frozen=True, eq=False)
class Compressed:
    """Output of a compressor.

    Attributes:
        tokens: the remaining tokens.
        losses: named scalar losses of the compressor, already weighted.
        scores: (N,) logits of the relevance of each original token to the question, with gradients; the target of
            distillation. None if the compressor does not score tokens.
        key_bias: (K,) added to the logits of the attention to each token in all layers of the language model, with
            gradients, such as the logarithm of a soft mask in training; None for none. See ``biases_keys`` of a
            compressor.
        handover: what ``in_llm.begin`` of the compressor gets about this video, or None.
    """

    tokens: VideoTokens
    losses: dict[str, Tensor] = field(default_factory=dict)
    scores: Tensor | None = None
    handover: Any = None
    key_bias: Tensor | None = None


def _times(times: Tensor | None, t: int, device: torch.device) -> Tensor:
    if times is None:
        return torch.arange(t, dtype=torch.float32, device=device)
    try:
        times = torch.as_tensor(times, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"times must be seconds: {error}") from error
    if times.shape != (t,):
        raise InputError(f"times must have one entry for each of the {t} frames, got shape {tuple(times.shape)}")
    if not bool(torch.isfinite(times).all()) or bool((times[1:] < times[:-1]).any()):
        raise InputError("times must be finite seconds in ascending order")
    return times


def _attention(attention: Tensor | None, grid: tuple[int, int, int], device: torch.device) -> Tensor | None:
    if attention is None:
        return None
    n = grid[0] * grid[1] * grid[2]
    # Other shapes with the same number of values are refused: they would be read in the wrong order.
    if not isinstance(attention, Tensor) or tuple(attention.shape) not in (grid, (n,)):
        shape = tuple(attention.shape) if isinstance(attention, Tensor) else type(attention).__name__
        raise InputError(f"attention must be a tensor {grid} or ({n},), got {shape}")
    if not bool(torch.isfinite(attention).all()):
        raise InputError("attention contains NaN or infinite values")
    return attention.reshape(n).to(device)
