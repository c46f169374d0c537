"""Trials of compressors that act inside the language model: whether a host can run them, and at which budget."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget, budget_tokens
from framefold.adapters.hosts.hooks.layer_hooks import check_layers
from framefold.errors import BudgetError, ConfigError
from framefold.evaluation.metrics.equal_flops import EqualBudget, PromptSize, equal_budget, mean_flops
from framefold.training.frozen_host.host import Host

from .cost import CostMeter

Grid = tuple[int, int, int]


def check_possible(host: Host, compressor: Compressor, grids: Iterable[Grid]) -> None:
    """Check that a compressor can act in the layers of a host at its budget.

    Args:
        host: host whose language model it acts in.
        compressor: compressor at a budget; one that acts only before the language model is always possible.
        grids: (T, H, W) grids of the videos.

    Raises:
        AttachError: it cannot act in these layers.
        BudgetError: the budget is not possible for one of the videos; ``smallest`` is possible for all.
    """
    if compressor.in_llm is None:
        return
    check_layers(host.model, compressor.in_llm)
    layers, errors = len(host.family.decoder_layers(host.model)), []
    for t, h, w in set(grids):
        try:
            compressor.counts_in_llm(t * h * w, h * w, layers)
        except BudgetError as error:
            errors.append(error)
    if errors:
        raise max(errors, key=lambda error: error.smallest or 0)


def describe_acts(host: Host, compressor: Compressor) -> str:
    """Return where in the language model of a host a compressor drops or merges tokens, for a message; or ""."""
    layers, stage = len(host.family.decoder_layers(host.model)), compressor.in_llm
    acts = () if stage is None else stage.acts(layers)
    if stage is None or not acts:
        return ""
    site = "after the attention of" if stage.site == "after_attention" else "in front of"
    numbers = ", ".join(map(str, acts)) if len(acts) < 4 else f"{acts[0]} ... {acts[-1]}"
    return f"{site} layer{'s' if len(acts) > 1 else ''} {numbers} of {layers} (from 0)"


def match_flops(host: Host, meter: CostMeter, compressor: Compressor, budget: Budget) -> EqualBudget:
    """Return the largest budget of a compressor at which its prefill has at most the operations of a nominal budget.

    The operations are those of the prompts that the costs are measured with. They are computed from the numbers of
    tokens in the layers. If these depend on the contents of the videos (FrameFusion), or attention is added, the
    prompts are prefilled instead, and the budget is found by halving.

    Args:
        host: host whose language model it acts in.
        meter: measures the costs.
        compressor: compressor, whose budget is changed.
        budget: nominal budget, which all other methods keep in every layer.

    Raises:
        BudgetError: it has more operations even at its smallest possible budget.
        ConfigError: there is no formula for the operations of this host.
    """
    if meter.formula is None:
        raise ConfigError("equal='flops' needs a formula for the FLOPs of the host, and there is none: use 'tokens'")
    stage = compressor.in_llm
    assert stage is not None
    sizes = meter.prompt_sizes(complete=stage.reads)
    layers = len(host.family.decoder_layers(host.model))
    exhaustive = compressor.exact_budget and stage.binding and not stage.adds(layers)

    def computed(candidate: Budget) -> float | None:
        compressor.budget = candidate
        return mean_flops(meter.formula, sizes, partial(tokens_by_layer, compressor, layers))  # type: ignore[arg-type]

    def measured(candidate: Budget) -> float | None:
        compressor.budget = candidate
        try:
            return meter.prefill_flops(compressor)
        except BudgetError:
            return None

    try:
        return equal_budget(computed if exhaustive else measured, meter.formula, sizes, budget, exhaustive)
    except BudgetError as error:
        raise BudgetError(f"{compressor.name}: {error}", error.smallest) from error


def tokens_by_layer(compressor: Compressor, layers: int, size: PromptSize) -> list[int]:
    """Return the number of visual tokens in each of the layers of a language model.

    Raises:
        BudgetError: the budget is not possible.
    """
    stage = compressor.in_llm
    assert stage is not None
    k = budget_tokens(compressor.budget, size.tokens)
    entered = compressor.entering(k, size.tokens, size.per_frame)
    counts = (entered, *stage.counts(entered, k, layers))
    return [count for count, span in zip(counts, stage.spans(layers), strict=True) for _ in range(span)]
