"""Trials of compressors that act inside the language model: which of them a host can run."""

from __future__ import annotations

from framefold.adapters.hosts.hooks.layer_hooks import check_layers
from framefold.errors import AttachError, BudgetError
from framefold.training.frozen_host.host import Host

from .methods import Method
from .runner import Trial

MANY = 100_000  # tokens of a video; with fewer, the smallest possible ratio is hardly larger


def is_possible(host: Host, trial: Trial) -> bool:
    """Return whether the layers of a host allow a trial; print why not.

    A number of tokens as the budget is not checked, since videos may differ in length.
    """
    method, budget = trial.method, trial.settings.budget
    if not isinstance(method, Method):
        return True
    compressor = method.build(budget, trial.settings.seed)
    if compressor.in_llm is None:
        return True
    try:
        check_layers(host.model, compressor.in_llm)
        if isinstance(budget, float):
            compressor.counts_in_llm(MANY, 1, len(host.family.decoder_layers(host.model)))
    except (AttachError, BudgetError) as error:
        print(f"ablation: {method.name} is left out at {budget:g}: {error}")
        return False
    return True
