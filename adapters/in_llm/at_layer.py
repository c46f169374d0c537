"""Another compressor on the states that enter a decoder layer, as STTM is published (arXiv 2507.07990)."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.in_llm import Decision, InLLM, scale_layer
from framefold.adapters.base.in_llm_only import InLLMOnly
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.registry import compressor_class, create_compressor
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.reference.sttm import merge_as_released
from framefold.errors import ConfigError


class AtLayer(InLLMOnly):
    """Compresses the states that enter a decoder layer by the rule of another compressor. Training-free.

    All tokens enter the language model. In front of ``layer``, ``rule`` decides on their states instead of their
    features, which tokens stay and which are merged; merged tokens are plain means of states. It reads neither
    attention nor the question, so one prefill serves any number of questions. The budget is the mean over the layers,
    so budgets below about layer / n are not possible in a language model of n layers.

    ``variant="official"`` merges the states as the released code of STTM, with its means of means of nodes. Its
    thresholds determine the number of tokens, and the budget is ignored. A merged token has the position of its first
    token, as the release has it in Qwen2-VL; in LLaVA the release renumbers the prompt instead.

    Args:
        budget: retention ratio or tokens per video, as the mean over the layers; ``official`` ignores it.
        variant: "exact" for the rule with an exact budget, "official" for the release of STTM.
        rule: registered name of a training-free compressor with an exact budget; "sttm" for ``official``.
        rule_params: parameters of that compressor that differ from its defaults.
        layer: first layer with fewer tokens, from 0, in a language model of 28 layers or more; with fewer layers, it is
            behind the same share of them, and at least 1.

    Raises:
        UnknownCompressorError: ``rule`` is not registered.
        ConfigError: an unknown variant; ``rule`` must be trained, needs the question or attention, has no exact
            budget, acts inside the language model itself, or is not "sttm" although ``variant`` is "official"; or the
            layer is below 1.
    """

    name = "at_layer"
    keeps = "what another compressor keeps of the states that enter a layer"
    cost = "that of the other compressor"

    def __init__(
        self,
        budget: Budget = 0.25,
        *,
        variant: Literal["exact", "official"] = "exact",
        rule: str = "sttm",
        rule_params: dict | None = None,
        layer: int = 2,
    ) -> None:
        super().__init__(budget)
        if variant not in ("exact", "official") or variant == "official" and rule != "sttm":
            raise ConfigError(
                f"at_layer: variant must be 'exact', or 'official' with the rule sttm, got {variant!r} and {rule}"
            )
        if layer < 1:
            raise ConfigError(f"at_layer: layer must be at least 1, got {layer}")
        inner_params = {**(rule_params or {}), **({"variant": "official"} if variant == "official" else {})}
        inner = cast(Compressor, create_compressor(compressor_class(rule), 1.0, inner_params))
        needs = inner.trainable or inner.query_aware or inner.needs_attention or inner.in_llm is not None
        if needs or not inner.exact_budget and variant == "exact":
            raise ConfigError(
                f"at_layer: {rule} must be training-free, have an exact budget, and need neither the question nor"
                " attention; the release of STTM is variant='official' of at_layer"
            )
        self.variant, self.rule, self.rule_params, self.layer = variant, rule, rule_params, layer
        self.exact_budget = variant == "exact"
        self.in_llm = (CompressStates if self.exact_budget else OfficialSTTM)(inner, layer)


class CompressStates(InLLM):
    """Compresses the states that enter a layer."""

    site = "input"

    def __init__(self, inner: Compressor, layer: int) -> None:
        super().__init__()
        self.inner, self.layer = inner, layer

    def acts(self, layers: int) -> tuple[int, ...]:
        return (scale_layer(self.layer - 1, layers) + 1,)

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        self.inner.budget = k
        out = self.inner(_whole_frames(video))
        merged = bool((out.tokens.size != 1).any())
        return Decision(out.tokens.index, out.tokens.assign if merged else None)


class OfficialSTTM(CompressStates):
    """Merges the states that enter a layer as the release of STTM."""

    binding = False

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        return (entered,)  # at most

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        rule: Any = self.inner
        merged = merge_as_released(_whole_frames(video).as_grid(), rule.tau_s, rule.tau_t, rule.root_level)
        group, weights = merged.rows.reshape(-1), merged.weights.reshape(-1)
        first = group.new_full((int(group.max()) + 1,), len(group))
        rows = first.scatter_reduce(0, group, torch.arange(len(group), device=group.device), "amin")
        return Decision(rows, group, weights)


def _whole_frames(video: VideoTokens) -> VideoTokens:
    """Return the states as a dense video; a chain may have dropped whole frames before."""
    frames = len(video) // video.per_frame
    states = video.features.view(frames, *video.grid[1:], video.width)
    return VideoTokens.from_grid(states, video.times[video.index[:: video.per_frame] // video.per_frame])
