"""Base class of all compressors and the checks of its contract.

A method derives from :class:`Compressor` (implement ``compress``), from
:class:`~framefold.adapters.base.selector.Selector` (implement ``score``), from
:class:`~framefold.adapters.base.merger.Merger` (implement ``assign``) or from
:class:`~framefold.adapters.base.frame_pruner.FramePruner` (implement ``select_exact`` and ``select_official``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from framefold.adapters.core.budget import AUTO, Budget, budget_tokens, check_budget
from framefold.adapters.core.gradients import zero_times_parameters
from framefold.adapters.core.language_model import LanguageModelShape
from framefold.adapters.core.parameters import init_params, read_params
from framefold.adapters.core.registry import compressor_class, register_class
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.pretrained.mixin import PretrainedMixin
from framefold.errors import BudgetError, ConfigError, ContractError, InputError

from .in_llm import InLLM


class Compressor(PretrainedMixin, nn.Module):
    """Reduces the visual tokens of one video to an exact budget.

    A subclass defines ``name``, which registers it, and implements :meth:`compress`. Constructor parameters other than
    ``budget`` must be keyword-only, annotated, and stored as attributes of the same name, so that they can be saved and
    validated.

    Args:
        budget: retention ratio (float in (0, 1]) or number of tokens per video (int); "auto" if the compressor
            predicts the budget (``predicts_budget``).

    Raises:
        BudgetError: the budget is out of range.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""  # name and arXiv id of the publication
    keeps: ClassVar[str] = ""  # what its tokens are, a noun phrase for tables
    cost: ClassVar[str] = ""  # of N tokens of width D, k of them kept, in words
    growth: ClassVar[Literal["linear", "quadratic"]] = "linear"  # of its time with N at a fixed ratio k / N
    # SPDX, of the released code: "none" if it has none, "NOASSERTION" if it is unknown, empty without a release.
    licence: ClassVar[str] = ""
    deviations: ClassVar[str] = ""  # of the exact budget from the released code, in words
    trainable: ClassVar[bool] = False  # has parameters to learn
    counterpart: str | None = None  # training-free method to which a fresh trainable one is equal, bit by bit
    baseline_rank: ClassVar[int | None] = None  # place among the baselines that reports compare with, strongest last
    query_aware: ClassVar[bool] = False  # its result depends on the question
    returns_scores: bool = False  # gives tokens scores that a loss can train
    needs_attention: bool = False  # needs VideoTokens.attention; an instance may need none by its parameters
    encodes: ClassVar[bool] = False  # has a learned encoder before its reduction, see encode()
    predicts_budget: bool = False  # predicts how many tokens to keep: accepts budget="auto"
    biases_keys: bool = False  # in training, its result may have a key_bias, which the host must take
    shares_results: bool = True  # questions about a video may share results, see VideoTokens.once
    exact_budget: bool = True  # False for an instance whose variant determines the number of tokens itself

    _weights_loaded: bool = False
    _first_versions: tuple[int, ...] | None = None  # of the parameters, when they were first used

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            register_class(cls)

    def __init__(self, budget: Budget | str = 0.25) -> None:
        super().__init__()
        self.in_llm: InLLM | None = None  # what reduces the tokens further, inside the language model
        self.budget = budget

    @property
    def needs_query(self) -> bool:
        """Whether a call needs the question. A method that reads it in the language model alone does not."""
        return self.query_aware and not (self.in_llm is not None and self.in_llm.reads)

    def entering(self, k: int, n: int, per_frame: int = 1) -> int:
        """Return how many of n tokens a call keeps for a budget of k: k, or what ``in_llm`` reduces to a mean of k."""
        return k if self.in_llm is None else self.in_llm.entering(k, n)

    def counts_in_llm(self, n: int, per_frame: int, layers: int, entered: int | None = None) -> tuple[int, ...]:
        """Return the numbers of tokens that ``in_llm`` leaves of n in a language model.

        Args:
            n: number of tokens of the video.
            per_frame: number of tokens of a frame.
            layers: number of layers of the language model.
            entered: number of tokens that enter, if it is known.

        Raises:
            BudgetError: the budget is not possible; the message contains the smallest one.
        """
        assert self.in_llm is not None
        k = n if self.budget == AUTO else budget_tokens(self.budget, n)
        entered = self.entering(k, n, per_frame) if entered is None else entered
        try:
            return self.in_llm.counts(entered, k, layers)
        except BudgetError as error:
            smallest = self.in_llm.smallest_budget(n, layers, lambda k: self.entering(k, n, per_frame))
            ratio = math.ceil(10_000 * smallest / n) / 10_000
            raise BudgetError(
                f"{self.name}: {error}; the smallest budget for {n} tokens is {smallest}, a ratio of {ratio}",
                ratio if isinstance(self.budget, float) else smallest,
            ) from error

    @property
    def budget(self) -> Any:
        """Retention ratio, number of tokens per video, or "auto"; may be changed at any time."""
        return self._budget

    @budget.setter
    def budget(self, value: Budget | str) -> None:
        if value == AUTO and not self.predicts_budget:
            raise BudgetError(f"{self.name} does not predict its budget: set a ratio or a number of tokens")
        self._budget: Budget | str = AUTO if value == AUTO else check_budget(value)  # type: ignore[arg-type]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens | Compressed:
        """Reduce a dense, finite video to exactly k tokens in ascending anchor order.

        Args:
            video: the N dense tokens of one video.
            k: number of tokens to return, 1 <= k <= N; with ``in_llm``, what :meth:`entering` returns.
            query: (L, D) input embeddings of the question; never None if ``needs_query``.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement compress()")

    def limit(self, n: int) -> int:
        """Return an upper bound on the tokens kept out of n when the budget is predicted (``predicts_budget``)."""
        return n

    def encode(self, video: VideoTokens, query: Tensor | None = None) -> VideoTokens:
        """Apply the learned encoder before the reduction, if ``encodes``.

        It is called by :meth:`compress` of the compressor itself and by chains (``storm+st_simdiff``).

        Returns:
            A dense video of the same grid.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encoder before its reduction")

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        """Create the parameters whose shape depends on the token width D and the (H, W) grid, unless they exist.

        It is called before the first forward. Call it, or pass the sizes to the constructor, before creating an
        optimizer.
        """

    def materialize_in_llm(self, shape: LanguageModelShape, device: torch.device | None = None) -> None:
        """Create the parameters that act inside the language model, unless they exist; as :meth:`materialize`."""

    def forward(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        """Compress one video.

        Args:
            video: dense visual tokens of one video, (N, D).
            query: (L, D) input embeddings of the question without prompt template, for query-aware methods.

        Returns:
            Compressed with min(N, max(1, round(ratio*N))) or min(N, tokens) tokens in ascending anchor order, in the
            dtype and on the device of the input. With ``in_llm``, this is the mean number over the layers of the
            language model, and the result is what enters it.

        Raises:
            InputError: features are NaN or infinite, the video is not dense, or a query or attention is missing or has
                the wrong shape.
            ContractError: the compressor returned an invalid result.
        """
        self._check_input(video, query)
        k = self.limit(len(video)) if self.budget == AUTO else budget_tokens(self.budget, len(video))
        k = self.entering(k, len(video), video.per_frame)
        self.materialize(video.width, video.grid[1:], video.features.device)
        self._note_versions()
        out = self.compress(video, k, query)
        return self._check_output(Compressed(out) if isinstance(out, VideoTokens) else out, video, k)

    @property
    def is_untrained(self) -> bool:
        """Whether it has parameters to learn, and no weights were loaded and no step was taken since its first use."""
        if not self.trainable or self._weights_loaded:
            return False
        self._note_versions()
        return self._first_versions == self._versions()

    def _note_versions(self) -> None:
        """Remember the versions of the parameters once they exist."""
        if torch.compiler.is_compiling():
            return
        versions = self._versions()
        if self._first_versions is None or len(self._first_versions) != len(versions):  # created since
            self._first_versions = versions

    def _versions(self) -> tuple[int, ...]:
        """Return a count of the changes in place of each parameter."""
        return tuple(0 if one.is_inference() else one._version for one in self.parameters())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        self._weights_loaded |= any(key.startswith(prefix) for key in state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def events(self, video: VideoTokens) -> Tensor | None:
        """Return (N,) bool, the tokens of a dense video with an event; None if the method detects no events."""
        return None

    def zero_times_parameters(self) -> Tensor:
        """Return a scalar zero that depends on every trainable parameter, for branches that do not use all of them."""
        return zero_times_parameters(self)

    def init_from_layers(self, layers: Sequence[Mapping[str, Tensor]], heads: int, kv_heads: int) -> dict[str, bool]:
        """Initialize parameters from the decoder layers of a host (:func:`framefold.init_from_host`).

        Args:
            layers: tensors of each layer of the language model, first layer first; see
                :meth:`~framefold.adapters.layers.cross_attention.CrossAttentionBlock.copy_layer`.
            heads: number of attention heads of the layers.
            kv_heads: number of their key-value heads.

        Returns:
            Names of the parameters for which a layer has a tensor, and whether its shape matched.

        Raises:
            ConfigError: the compressor has no parameters that can be initialized from a host.
        """
        raise ConfigError(f"{self.name} has no parameters that can be initialized from the layers of a host")

    def synchronize(self) -> None:
        """Reduce statistics over all ranks; the training loop calls it after each step, on every rank."""

    @classmethod
    def upgrade_params(cls, params: Mapping[str, Any]) -> dict[str, Any]:
        """Convert parameters saved by an earlier version to the current names and values."""
        return dict(params)

    @classmethod
    def counterpart_of(cls, params: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Return name and parameters of the training-free counterpart of a compressor with these parameters."""
        known = init_params(compressor_class(cls.counterpart)) if cls.counterpart else {}
        return cls.counterpart, {name: value for name, value in params.items() if name in known}

    def params(self) -> dict[str, Any]:
        """Return the constructor parameters other than the budget, as values that JSON can hold."""
        return read_params(self)

    def extra_repr(self) -> str:
        return ", ".join(f"{key}={value!r}" for key, value in {"budget": self.budget, **self.params()}.items())

    def budget_ratio(self, k: int, n: int) -> float:
        """Return the budget as a ratio, which released rules are given: as it is, or k of n tokens."""
        return self.budget if isinstance(self.budget, float) else k / n

    def _check_input(self, video: VideoTokens, query: Tensor | None) -> None:
        if not isinstance(video, VideoTokens):
            raise InputError(
                f"{self.name} expects VideoTokens (VideoTokens.from_grid(features)), got {type(video).__name__}"
            )
        if not video.is_dense:
            raise InputError(
                f"{self.name} expects a dense video, but {len(video)} tokens do not fill the {video.grid} grid"
            )
        if not _finite(video.features):
            raise InputError("the video features contain NaN or infinite values")
        if self.needs_attention and video.attention is None:
            raise InputError(f"{self.name} needs VideoTokens.attention, the attention received in the vision encoder")
        if not self.query_aware or query is None and not self.needs_query:
            return
        if query is None:
            raise InputError(f"{self.name} is query-aware: pass query, the (L, D) embeddings of the question")
        if not isinstance(query, Tensor) or not query.is_floating_point():
            raise InputError(f"query must be a floating-point tensor (L, D), got {type(query).__name__}")
        if query.ndim != 2 or query.shape[0] == 0 or query.shape[1] != video.width:
            raise InputError(f"query must be (L >= 1, D = {video.width}), got {tuple(query.shape)}")
        if not _finite(query):
            raise InputError("the query contains NaN or infinite values")

    def _check_output(self, out: Compressed, video: VideoTokens, k: int) -> Compressed:
        tokens = out.tokens
        exact = self.exact_budget and self.budget != AUTO
        if exact and len(tokens) != k or len(tokens) > k and self.budget == AUTO:
            raise ContractError(f"{self.name} returned {len(tokens)} tokens for a budget of {k}")
        if tokens.features.dtype != video.features.dtype or tokens.width != video.width:
            kinds = f"{video.features.dtype} -> {tokens.features.dtype}"
            raise ContractError(f"{self.name} changed dtype or width: {kinds}")
        if not len(tokens.index) == len(tokens.size) == len(tokens):
            raise ContractError(f"{self.name} returned index, size and features of different lengths")
        if tokens.grid != video.grid or tokens.assign.shape != video.assign.shape:
            raise ContractError(f"{self.name} changed the grid, or returned assign without a row per original token")
        if bool((tokens.index[1:] <= tokens.index[:-1]).any()):
            raise ContractError(f"{self.name} returned anchors that are not in ascending order")
        return out


def _finite(x: Tensor) -> bool:
    low, high = torch.aminmax(x.detach())  # one pass, no copy; NaN propagates
    return bool(torch.isfinite(low) & torch.isfinite(high))
