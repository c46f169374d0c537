"""Where the tokens of each video are in a shortened prompt, and what happens to them inside the language model.

Dimensions: B rows, L columns before, L' columns after, N tokens of a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from framefold.adapters.base.in_llm import InLLM
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.base.family import Family
from framefold.errors import InputError

from .compaction import Compaction

IN_LLM_HOOKS = "_framefold_in_llm"  # attribute of a host whose layers call stages in the language model
KEY_BIAS_HOOKS = "_framefold_key_bias"  # attribute of a host whose attention takes a bias on visual tokens


@dataclass(frozen=True, eq=False)
class InLLMPlan:
    """What happens to one video inside the language model.

    Attributes:
        in_llm: what reduces it.
        counts: number of tokens after each act; none if it only adds to the attention of text.
        exact: whether these numbers are binding.
        handover: what the compressor hands over.
        layers: number of decoder layers.
    """

    in_llm: InLLM
    counts: tuple[int, ...]
    exact: bool
    handover: Any
    layers: int


@dataclass(frozen=True, eq=False)
class VideoPlace:
    """Where the tokens of one video are in the shortened prompt.

    Attributes:
        row: row of the batch.
        columns: (N,) int64 columns, ascending.
        tokens: the tokens, with features of no rows, so that nothing here holds memory.
        plan: what happens inside the language model; None if nothing does.
        key_bias: (N,) bias of the attention to each token, with gradients; None for none.
        left: after a forward, the tokens that are left, by the first layer that has only these; like ``tokens``.
    """

    row: int
    columns: Tensor
    tokens: VideoTokens
    plan: InLLMPlan | None = None
    key_bias: Tensor | None = None
    left: dict[int, VideoTokens] = field(default_factory=dict)

    @property
    def last(self) -> VideoTokens:
        """Tokens that the last layer had in the last forward."""
        return self.left[max(self.left)] if self.left else self.tokens

    @property
    def mean_tokens(self) -> float:
        """Mean number of tokens over the layers in the last forward."""
        if self.plan is None:
            return len(self.tokens.index)
        layers = self.plan.layers
        return sum(len(self.in_layer(layer).index) for layer in range(layers)) / layers

    def in_layer(self, layer: int) -> VideoTokens:
        """Return the tokens that a layer had in the last forward."""
        starts = [start for start in self.left if start <= layer]
        return self.left[max(starts)] if starts else self.tokens


def place_videos(
    where: Tensor,
    rows: Sequence[int],
    clips: Sequence[Encoded],
    outputs: Sequence[Compressed | None],
    plans: Sequence[InLLMPlan | None],
    compaction: Compaction,
) -> tuple[VideoPlace, ...]:
    """Return the places of the videos.

    Args:
        where: (P, 2) row and column of every placeholder before, in order.
        rows: row of each video.
        clips: the encoded videos and stills.
        outputs: result of the compressor for each of them; None for stills.
        plans: what happens to each of them inside the language model.
        compaction: map between the columns.
    """
    new = compaction.new_columns().to(where.device)
    places, start = [], 0
    for row, clip, out, plan in zip(rows, clips, outputs, plans, strict=True):
        if out is not None:
            placeholders = clip.kept_placeholders(out.tokens)[: len(out.tokens)].to(where.device)  # extra ones are last
            columns = new[row, where[start + placeholders, 1]]
            tokens = replace(out.tokens, features=out.tokens.features.new_empty(0, out.tokens.width))
            places.append(VideoPlace(row, columns, tokens, plan, out.key_bias))
        start += len(clip)
    return tuple(places)


def plan_in_llm(model: PreTrainedModel, family: Family, compressor: Any, out: Compressed) -> InLLMPlan | None:
    """Return what happens to a compressed video inside the language model, None if its compressor does nothing there.

    Raises:
        InputError: the layers of the host do not call it, or its weights are for another language model.
        BudgetError: the budget is not possible in this language model; the message contains the smallest one.
    """
    compressor = getattr(compressor, "compressor", compressor)  # what a wrapper calls
    in_llm: InLLM | None = getattr(compressor, "in_llm", None)
    if in_llm is None:
        return None
    if not hasattr(model, IN_LLM_HOOKS):
        raise InputError(
            f"{compressor.name} acts inside the language model, whose layers do not call it: attach the"
            " compressor, or run the host inside `with framefold.adapters.hosts.in_llm(model, compressor)`"
        )
    if (create := getattr(compressor, "materialize_in_llm", None)) is not None:
        create(family.language_model_shape(model), out.tokens.features.device)
    layers, tokens = len(family.decoder_layers(model)), out.tokens
    counts = compressor.counts_in_llm(len(tokens.assign), tokens.per_frame, layers, len(tokens))
    return InLLMPlan(in_llm, counts, compressor.exact_budget and in_llm.binding, out.handover, layers)


def check_key_bias(
    model: PreTrainedModel, outputs: Sequence[Compressed | None], plans: Sequence[InLLMPlan | None], generation: bool
) -> None:
    """Check that a bias on visual tokens reaches the attention of the host.

    Raises:
        InputError: it would be lost; the message says what to do.
    """
    if all(out is None or out.key_bias is None for out in outputs):
        return
    if generation:
        raise InputError("a compressor in training mode biases the attention to its tokens: call model.eval() first")
    if any(plans):
        raise InputError("a bias on visual tokens cannot be combined with a reduction inside the language model")
    if not hasattr(model, KEY_BIAS_HOOKS):
        raise InputError(
            "the compressor biases the attention to its tokens, which the language model would not see: attach it, put"
            " it into eval mode, or run the host inside `with framefold.adapters.hosts.biased_keys(model, compressor)`"
        )
