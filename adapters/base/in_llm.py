"""What reduces the visual tokens of a video inside the language model, between two of its decoder layers.

A compressor with such a stage has it as :attr:`~framefold.adapters.base.compressor.Compressor.in_llm`. The hooks of an
attached host (``adapters/hosts/hooks``) call it; nothing here knows a host.

Dimensions: N tokens of a video before a decision, K after; D width; n layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.selection import exact_topk
from framefold.errors import BudgetError, ContractError

RELEASED_LAYERS = 28  # number of layers for which published layer numbers are meant


class Decision(NamedTuple):
    """Which tokens of a video stay, and which take in others.

    Attributes:
        rows: (K,) int64 tokens that stay, ascending.
        group: (N,) int64 output row of each token, -1 if it is dropped; None if no token takes in another.
        weight: (N,) weight of each token in its group, with a sum of 1; None for plain means.
    """

    rows: Tensor
    group: Tensor | None = None
    weight: Tensor | None = None


class InLLM(nn.Module):
    """Reduces the tokens of one video in some decoder layers, once per prompt, during prefill.

    A subclass implements :meth:`acts` and :meth:`decide`. Decisions are made without gradients; the hooks compute the
    means of groups, with gradients. Dropping after the attention of layer a has the same result as before layer a + 1,
    because the MLP acts on each token alone; so the MLP of layer a still sees all tokens.

    The budget of the compressor is the mean number of tokens over all layers, which is also the share of the key-value
    cache.

    Attributes:
        site: "after_attention" decides on the states after the self-attention of a layer, for the layers behind it;
            groups are merged before its MLP. "input" decides on the states that enter a layer, for this layer.
        reads: whether :meth:`decide` needs the attention of the prompt's last column. The question must then be in the
            same forward as the video.
        binding: whether :meth:`decide` must keep exactly k tokens; otherwise it meets the mean by itself.
    """

    site: ClassVar[Literal["after_attention", "input"]] = "after_attention"
    reads: ClassVar[bool] = False
    binding: ClassVar[bool] = True

    def acts(self, layers: int) -> tuple[int, ...]:
        """Return the decoder layers in which it acts, ascending from 0, in a language model of n layers."""
        raise NotImplementedError(f"{type(self).__name__} must implement acts()")

    def adds(self, layers: int) -> tuple[int, ...]:
        """Return the layers in which an :class:`~framefold.adapters.base.added_attention.AddedAttention` adds."""
        return ()

    def entering(self, k: int, n: int) -> int:
        """Return how many of n tokens enter the language model for a mean of k over its layers."""
        return n

    def counts(self, entered: int, k: int, layers: int) -> tuple[int, ...]:
        """Return the number of tokens after each act, so that the mean over the layers is k.

        The mean is never above k; what is missing is less than one token in the last layers.

        Raises:
            BudgetError: not even one token can be left; see :meth:`smallest_budget`.
        """
        return spread_over_layers(entered, k, self.spans(layers))

    def smallest_budget(self, n: int, layers: int, entering: Callable[[int], int] | None = None) -> int:
        """Return the mean over the layers from which on all larger ones are possible for a video of n tokens.

        Args:
            n: number of tokens.
            layers: number of layers.
            entering: returns how many tokens enter for a budget; by default :meth:`entering`.
        """
        spans, entering = self.spans(layers), entering or (lambda k: self.entering(k, n))
        return next((k for k in range(n, 0, -1) if not _is_possible(entering(k), k, spans)), 0) + 1

    def spans(self, layers: int) -> tuple[int, ...]:
        """Return the numbers of layers before the first act, between the acts, and behind the last one."""
        starts = [layer + (self.site == "after_attention") for layer in self.acts(layers)]
        return tuple(end - start for start, end in zip([0, *starts], [*starts, layers], strict=True))

    def begin(self, video: VideoTokens, layers: int, handover: Any) -> Any:
        """Return the state of one video of one prompt, which all acts share and no other video sees.

        Args:
            video: the tokens that enter, without features.
            layers: number of layers of the language model.
            handover: ``Compressed.handover`` of the compressor.
        """
        return None

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        """Return which tokens of one video stay; called without gradients, once per act and prompt.

        Args:
            video: N tokens; the features are the hidden states.
            received: (N,) fp32 attention of the prompt's last column, mean over the heads; None unless ``reads``.
            layer: number of the layer.
            k: number of tokens to keep, from :meth:`counts`.
            memory: result of :meth:`begin`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement decide()")


class AttentionPruning(InLLM):
    """Keeps the tokens that the last column of the prompt attends to most; ties go to the lower index."""

    reads = True

    def decide(self, video: VideoTokens, received: Tensor | None, layer: int, k: int, memory: Any) -> Decision:
        assert received is not None
        return Decision(exact_topk(received, k))


def scale_layer(layer: int, layers: int) -> int:
    """Return the last layer that sees all tokens in a language model of n layers, given the published one.

    The published number is used as it is from 28 layers on. With fewer layers, the same share of them sees all tokens,
    up to rounding: at least the first and not the last one.
    """
    if layers >= RELEASED_LAYERS:
        return layer
    return max(0, min(round((layer + 1) * layers / RELEASED_LAYERS) - 1, layers - 2))


def spread_over_layers(entered: int, k: int, spans: Sequence[int]) -> tuple[int, ...]:
    """Return token counts for all spans of layers but the first, with a mean of at most k over all layers.

    The counts fall by the same factor from span to span, up to rounding; the last one takes what is left.

    Args:
        entered: number of tokens in the first span.
        k: mean over the layers.
        spans: numbers of layers of the spans, in order.

    Raises:
        BudgetError: fewer than one token would be left.
    """
    layers, behind = sum(spans), sum(spans[1:])
    if not _is_possible(entered, k, spans):
        raise BudgetError(
            f"a mean of {k} tokens over {layers} layers is not possible, because all {entered} that enter are in the"
            f" first {f'{spans[0]} layers' if spans[0] > 1 else 'layer'}"
        )
    left = layers * k - spans[0] * entered  # tokens times layers
    counts, before = [], entered
    for number, span in enumerate(spans[1:], 1):
        behind -= span
        factor = _common_factor(before, left, spans[number:])
        most = (left - behind) // span  # one token must be left for each layer behind
        count = min(before, most, most if not behind else -int(-before * factor // 1))
        counts.append(count)
        left, before = left - span * count, count
    return tuple(counts)


def _is_possible(entered: int, k: int, spans: Sequence[int]) -> bool:
    """Whether a mean of k tokens leaves one in each layer behind the first span."""
    return sum(spans) * k >= spans[0] * entered + sum(spans[1:])


def _common_factor(tokens: int, total: int, spans: Sequence[int]) -> float:
    """Return the largest factor f <= 1 with sum(span_i * tokens * f^i, i = 1 ...) <= total."""
    low, high = 0.0, 1.0
    if tokens * sum(spans) <= total:
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        used = tokens * sum(span * middle**i for i, span in enumerate(spans, 1))
        low, high = (middle, high) if used <= total else (low, middle)
    return low


def apply_decision(video: VideoTokens, decision: Decision) -> VideoTokens:
    """Return the tokens that stay, with the means of their groups as features.

    Raises:
        ContractError: the decision is invalid.
    """
    rows, group, weight = decision
    _check_decision(len(video), rows, group)
    if weight is not None and (group is None or weight.shape != (len(video),)):
        raise ContractError("a stage in the language model must return a weight per token, and only with groups")
    if group is None:
        return video.keep(rows)
    taken = group >= 0
    size = video.size.new_zeros(len(rows)).index_add_(0, group[taken], video.size[taken])
    assign = torch.cat([group, group.new_tensor([-1])])[video.assign]  # row -1 reads the extra last entry, which is -1
    features = group_means(video.features, group, len(rows), weight)
    return replace(video, features=features, index=video.index[rows], size=size, assign=assign)


def group_means(features: Tensor, group: Tensor, count: int, weight: Tensor | None = None) -> Tensor:
    """Return the (K, D) means of the tokens of each group, computed in fp32 or wider.

    Args:
        features: (N, D).
        group: (N,) int64 group of each token, -1 for none.
        count: K.
        weight: (N,) weights with a sum of 1 in each group; None for plain means.
    """
    taken = group >= 0
    wide = torch.promote_types(features.dtype, torch.float32)
    total, members = features.new_zeros(count, features.shape[1], dtype=wide), features[taken].to(wide)
    if weight is not None:
        return total.index_add(0, group[taken], members * weight[taken, None].to(wide)).to(features.dtype)
    size = torch.bincount(group[taken], minlength=count)
    return (total.index_add(0, group[taken], members) / size[:, None]).to(features.dtype)


def _check_decision(n: int, rows: Tensor, group: Tensor | None) -> None:
    ascending = rows.ndim == 1 and len(rows) > 0 and bool((rows[1:] > rows[:-1]).all())
    if not ascending or int(rows[0]) < 0 or int(rows[-1]) >= n:
        raise ContractError(f"a stage in the language model must return ascending rows below {n}")
    if group is None:
        return
    own = torch.arange(len(rows), device=rows.device)
    if group.shape != (n,) or int(group.max()) >= len(rows) or not torch.equal(group[rows], own):
        raise ContractError("a stage in the language model must return an output row per token, its own if it stays")
