"""Rung 1 of the ladder: the contract that every compressor keeps.

Base -> :class:`~framefold.adapters.base.selector.Selector` (implement ``score``) or
:class:`~framefold.adapters.base.merger.Merger` (implement ``assign``) -> one method a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from framefold.adapters.core.budget import AUTO, Budget, budget_tokens, check_budget
from framefold.adapters.core.parameters import read_params
from framefold.adapters.core.registry import register
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.pretrained.mixin import PretrainedMixin
from framefold.errors import BudgetError, ConfigError, ContractError, InputError


class Compressor(PretrainedMixin, nn.Module):
    """Reduces the visual tokens of one video to an exact budget.

    A subclass sets ``name`` (which registers it) and implements :meth:`compress`. Constructor parameters other than
    ``budget`` are keyword-only, annotated, and stored under their own names: that is how they are saved and validated.

    Args:
        budget: retention ratio (float in (0, 1]) or number of tokens per video (int); "auto" where the compressor
            predicts it (``predicts_budget``).

    Raises:
        BudgetError: budget out of range.
    """

    name: ClassVar[str]
    trainable: ClassVar[bool] = False  # has parameters to learn
    counterpart: ClassVar[str | None] = None  # the training-free method at which a trainable one starts, bit for bit
    query_aware: ClassVar[bool] = False  # needs the question
    needs_attention: ClassVar[bool] = False  # needs VideoTokens.attention
    encodes: ClassVar[bool] = False  # has a learned encoder in front of its reduction, see encode()
    predicts_budget: bool = False  # can say itself how many tokens to keep: budget="auto"
    exact_budget: bool = True  # an instance says False where a variant follows the count of a release

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            register(cls)

    def __init__(self, budget: Budget | str = 0.25) -> None:
        super().__init__()
        self.budget = budget

    @property
    def budget(self) -> Any:
        """Retention ratio, tokens per video, or "auto"; may be changed at any time."""
        return self._budget

    @budget.setter
    def budget(self, value: Budget | str) -> None:
        if value == AUTO and not self.predicts_budget:
            raise BudgetError(f"{self.name} does not predict its budget: give a ratio or a number of tokens")
        self._budget: Budget | str = AUTO if value == AUTO else check_budget(value)  # type: ignore[arg-type]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        """The method itself: reduce a dense, finite video to exactly k tokens in ascending anchor order.

        Args:
            video: dense tokens of one video, N of them.
            k: number of tokens to return, 1 <= k <= N.
            query: (L, D) input embeddings of the question; never None if ``query_aware``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement compress()")

    def limit(self, n: int) -> int:
        """The most tokens of n that a compressor with a predicted budget (``predicts_budget``) keeps."""
        return n

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        """The learned part in front of the reduction, if ``encodes``: a dense video of the same grid.

        Chains call it (``storm+st_simdiff``); so does :meth:`compress` of the compressor itself.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encoder in front of its reduction")

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        """Create the parameters whose shape depends on the token width D and the (H, W) grid; nothing if they exist.

        Called before the first forward; call it (or pass the widths to the constructor) before making an optimizer.
        """

    def forward(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        """Compress one video.

        Args:
            video: dense visual tokens of one video, (N, D).
            query: (L, D) input embeddings of the bare question, for query-aware methods.

        Returns:
            Compressed with min(N, max(1, round(ratio*N))) or min(N, tokens) tokens in ascending anchor order, in the
            dtype and on the device of the input.

        Raises:
            InputError: NaN or infinite features, a video that is not dense, a missing or misshapen query or attention.
        """
        self._check_input(video, query)
        k = self.limit(len(video)) if self.budget == AUTO else budget_tokens(self.budget, len(video))
        self.materialize(video.width, video.grid[1:], video.features.device)
        out = self.compress(video, k, query)
        if isinstance(out, VideoTokens):
            out = Compressed(out)
        return self._check_output(out, video, k)

    def events(self, video: VideoTokens) -> Tensor | None:
        """(N,) bool, the tokens of a dense video at which the method sees something happen; None: it does not look."""
        return None

    def touch(self) -> Tensor:
        """A zero that depends on every trainable parameter.

        Add it where a branch leaves parameters out: a rank whose parameters get no gradient hangs DDP and aborts ZeRO.
        """
        zero = torch.zeros(())
        for parameter in self.parameters():
            if parameter.requires_grad:
                zero = zero.to(parameter.device) + parameter.sum() * 0.0
        return zero

    def init_from_layers(self, layers: Sequence[Mapping[str, Tensor]], heads: int, kv_heads: int) -> dict[str, bool]:
        """Start from the decoder layers of a host (:func:`framefold.init_from_host`).

        Args:
            layers: of the language model, from the first; see
                :meth:`~framefold.adapters.layers.cross_attention.LMBlock.copy_layer`.
            heads, kv_heads: of their attention.

        Returns:
            Names of the parameters that a layer has a tensor for, and whether it fitted.

        Raises:
            ConfigError: the compressor has nothing to start from a host.
        """
        raise ConfigError(f"{self.name} has nothing that could start from the layers of a host")

    def synchronize(self) -> None:
        """Bring statistics together over ranks; a training loop calls it after each step, on every rank."""

    @classmethod
    def upgrade_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Translate parameters that an earlier version saved into today's names and values."""
        return dict(params)

    def params(self) -> dict[str, Any]:
        """Constructor parameters other than the budget, as JSON-able values."""
        return read_params(self)

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in {"budget": self.budget, **self.params()}.items())

    def _check_input(self, video: VideoTokens, query: Tensor | None) -> None:
        if not isinstance(video, VideoTokens):
            raise InputError(
                f"{self.name} takes VideoTokens (VideoTokens.from_grid(features)), got {type(video).__name__}"
            )
        if not video.is_dense:
            raise InputError(
                f"{self.name} takes the dense video, but {len(video)} tokens do not fill the {video.grid} grid"
            )
        if not _finite(video.features):
            raise InputError("the video features hold NaN or infinite values")
        if self.needs_attention and video.attention is None:
            raise InputError(f"{self.name} needs VideoTokens.attention, the attention received in the vision encoder")
        if not self.query_aware:
            return
        if query is None:
            raise InputError(f"{self.name} is query-aware: pass query, the (L, D) embeddings of the question")
        if not isinstance(query, Tensor) or not query.is_floating_point():
            raise InputError(f"query must be a floating-point tensor (L, D), got {type(query).__name__}")
        if query.ndim != 2 or query.shape[0] == 0 or query.shape[1] != video.width:
            raise InputError(f"query must be (L >= 1, D = {video.width}), got {tuple(query.shape)}")
        if not _finite(query):
            raise InputError("the query holds NaN or infinite values")

    def _check_output(self, out: Compressed, video: VideoTokens, k: int) -> Compressed:
        tokens = out.tokens
        exact = self.exact_budget and self.budget != AUTO
        if exact and len(tokens) != k or len(tokens) > k and self.budget == AUTO:
            raise ContractError(f"{self.name} returned {len(tokens)} tokens for a budget of {k}")
        if tokens.features.dtype != video.features.dtype or tokens.width != video.width:
            raise ContractError(
                f"{self.name} changed dtype or width: {video.features.dtype} -> {tokens.features.dtype}"
            )
        if not len(tokens.index) == len(tokens.size) == len(tokens):
            raise ContractError(f"{self.name} returned index, size and features of different lengths")
        if tokens.grid != video.grid or tokens.assign.shape != video.assign.shape:
            raise ContractError(f"{self.name} returned another grid, or assign without one row for each original token")
        if bool((tokens.index[1:] <= tokens.index[:-1]).any()):
            raise ContractError(f"{self.name} returned anchors that do not ascend")
        return out


def _finite(x: Tensor) -> bool:
    low, high = torch.aminmax(x.detach())  # one pass, no copy; NaN propagates
    return bool(torch.isfinite(low) & torch.isfinite(high))
