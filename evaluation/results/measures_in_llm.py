"""Measures of compressors that also act inside the language model, shown only in tables that have one."""

from __future__ import annotations

from functools import partial

from .formats import flops, number, share_percent
from .measure import ANSWERS, Measure
from .readings import in_all_layers

IN_LLM_MEASURES = (
    Measure(
        "tokens_mean",
        title="mean over the layers",
        description="Visual tokens in the language model, mean over its layers, which is equal at equal budgets",
        better=None,
        show=number,
        read=in_all_layers("tokens_mean", "tokens_entered"),
        needs="tokens_mean",
        hint=True,
        axis=True,
        table="cost",
        column=1,
    ),
    Measure(
        "tokens_after",
        title="in the last layer",
        description="Visual tokens that the last layer of the language model sees",
        better=None,
        show=number,
        read=in_all_layers("tokens_after", "tokens_entered"),
        needs="tokens_after",
        hint=True,
        axis=True,
        table="cost",
        column=1,
    ),
    Measure(
        "equal_flops",
        title="FLOPs of the budget",
        description="Limit of the prefill FLOPs: those of the budget's number of visual tokens in every layer",
        better=None,
        show=flops,
        needs="equal_flops",
        hint=True,
        table="cost",
        column=2,
    ),
    Measure(
        "recall_left",
        title="recall in the last layer",
        unit="%",
        description="Share of the visual tokens with the question's evidence that the last layer still has, in percent",
        better="higher",
        show=share_percent,
        brief=partial(share_percent, digits=0),
        read=in_all_layers("recall_left", "evidence_recall"),
        needs="recall_left",
        group=ANSWERS,
        hint=True,
        table="evidence",
    ),
)
