"""Another compressor on the states that enter a decoder layer, as STTM is published (arXiv 2507.07990)."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.in_llm import Decision, InLLM, scale_layer
from framefold.adapters.base.in_llm_only import InLLMOnly
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import compressor_class, create_compressor
from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import ConfigError


class AtLayer(InLLMOnly):
    """Compresses the states that enter a decoder layer by the rule of another compressor. Training-free.

    All tokens enter the language model. In front of ``layer``, ``rule`` decides on their states instead of their
    features, which tokens stay and which are merged; merged tokens are plain means of states. It reads neither
    attention nor the question, so one prefill serves any number of questions. The budget is the mean over the layers,
    so budgets below about layer / n are not possible in a language model of n layers.

    Args:
        budget: retention ratio or tokens per video, as the mean over the layers.
        rule: registered name of a training-free compressor with an exact budget.
        rule_params: parameters of that compressor that differ from its defaults.
        layer: first layer with fewer tokens, from 0, in a language model of 28 layers or more; with fewer layers, it is
            behind the same share of them, and at least 1.

    Raises:
        UnknownCompressorError: ``rule`` is not registered.
        ConfigError: ``rule`` must be trained, needs the question or attention, has no exact budget, or acts
            inside the language model itself; or the layer is below 1.
    """

    name = "at_layer"
    keeps = "what another compressor keeps of the states that enter a layer"
    cost = "that of the other compressor"

    def __init__(
        self, budget: Budget = 0.25, *, rule: str = "sttm", rule_params: dict | None = None, layer: int = 2
    ) -> None:
        super().__init__(budget)
        inner = cast(Compressor, create_compressor(compressor_class(rule), 1.0, rule_params or {}))
        needs = inner.trainable or inner.query_aware or inner.needs_attention or inner.in_llm is not None
        if needs or not inner.exact_budget:
            raise ConfigError(
                f"at_layer: {rule} must be training-free, have an exact budget, and need neither the question nor"
                " attention"
            )
        if layer < 1:
            raise ConfigError(f"at_layer: layer must be at least 1, got {layer}")
        self.rule, self.rule_params, self.layer = rule, rule_params, layer
        self.in_llm = CompressStates(inner, layer)


class CompressStates(InLLM):
    """Compresses the states that enter a layer."""

    site = "input"

    def __init__(self, inner: Compressor, layer: int) -> None:
        super().__init__()
        self.inner, self.layer = inner, layer

    def acts(self, layers: int) -> tuple[int, ...]:
        return (scale_layer(self.layer - 1, layers) + 1,)

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        frames = len(video) // video.per_frame  # whole frames: what a chain may drop before
        states = video.features.view(frames, *video.grid[1:], video.width)
        self.inner.budget = k
        out = self.inner(VideoTokens.from_grid(states, video.times[video.index[:: video.per_frame] // video.per_frame]))
        merged = bool((out.tokens.size != 1).any())
        return Decision(out.tokens.index, out.tokens.assign if merged else None)
