"""Measures of a comparison, each declared once: all tables, plots and checks of results iterate over them.

A new measure is an entry in :data:`MEASURES`, and the code that writes its number into the result file under its key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

from .formats import byte_count, factor, flops, number, p_value, percent, share_percent, whole_percent
from .measure import ANSWERS, GROUPS, TYPES, Measure
from .measures_in_llm import IN_LLM_MEASURES
from .measures_of_answers import ANSWER_MEASURES
from .measures_of_totals import TOTAL_MEASURES
from .readings import (
    baseline_difference,
    corrected_p,
    mcnemar_remark,
    relative_time,
    significance_marks,
    total_ms,
)


def type_measure(kind: str) -> Measure:
    """Return the measure of the accuracy on one question type."""
    return Measure(
        f"type:{kind}",
        title=f"accuracy on {_literal(kind)}",
        unit="%",
        description=f"Accuracy on questions of type {_literal(kind)}, in percent",
        better="higher",
        show=percent,
        brief=whole_percent,
        read=lambda readings: readings.by_type.get(kind),
        group=TYPES,
    )


def _literal(text: str) -> str:
    """Escape a text for ``str.format``."""
    return text.replace("{", "{{").replace("}", "}}")


ACCURACY = Measure(
    "accuracy",
    title="accuracy",
    unit="%",
    description="Accuracy in percent, mean over question types, with its 95 % interval",
    better="higher",
    show=percent,
    read=lambda readings: readings.accuracy,
    group=ANSWERS,
)

# In the order of the page's menu.
MEASURES = (
    ACCURACY,
    Measure(
        "difference",
        title="minus {baseline}",
        unit="points",
        description="Accuracy minus that of {baseline} on the same questions, in points, with the 95 % interval of the "
        "difference",
        note="* p < 0.05, ** p < 0.01, *** p < 0.001: sign-flip test, with Holm's correction for the {tests} tests of "
        "this table",
        better="higher",
        show=partial(percent, sign=True),
        remark=significance_marks,
        read=baseline_difference,
        group=ANSWERS,
        hint=True,
        compares=True,
    ),
    Measure(
        "p",
        title="p (sign-flip, Holm)",
        description="p of the difference from the baseline by the sign-flip test, in parentheses by McNemar's test, "
        "both with Holm's correction",
        better=None,
        show=p_value,
        remark=mcnemar_remark,
        read=corrected_p,
        group=ANSWERS,
        hint=True,
        compares=True,
    ),
    Measure(
        "loss",
        title="answer loss",
        unit="nats",
        description="Negative log-likelihood of the right answer, in nats per token, mean over questions; also suits "
        "answers that are sentences",
        better="lower",
        show=partial(number, digits=3),
        stored="answer_loss",
        group=ANSWERS,
        hint=True,
        table="answers",
    ),
    Measure(
        "overlap",
        title="answer overlap",
        unit="%",
        description="F1 of the tokens that the host finds likeliest and those of the right answer, in percent, mean "
        "over questions; also suits answers that are sentences",
        better="higher",
        show=share_percent,
        stored="answer_overlap",
        group=ANSWERS,
        table="answers",
    ),
    Measure(
        "recall",
        title="evidence recall",
        unit="%",
        description="Share of the visual tokens with the question's evidence that went into a kept token, in percent",
        better="higher",
        show=share_percent,
        brief=partial(share_percent, digits=0),
        stored="evidence_recall",
        group=ANSWERS,
        hint=True,
        table="evidence",
    ),
    Measure(
        "purity",
        title="evidence purity",
        unit="%",
        description="Mean share of evidence among the originals of the kept tokens into which the evidence went (0 for "
        "dropped tokens), in percent",
        better="higher",
        show=share_percent,
        brief=partial(share_percent, digits=0),
        stored="evidence_purity",
        group=ANSWERS,
        table="evidence",
    ),
    Measure(
        "time",
        title="time relative to all tokens",
        unit="%",
        description="Time of compressor and prefill, in percent of the prefill of all tokens in the same process",
        better="lower",
        show=number,
        read=relative_time,
        full_value=100.0,
        of_compressor=True,
        hint=True,
        axis=True,
        plot=True,
    ),
    Measure(
        "total_ms",
        title="compressor + prefill",
        unit="ms",
        description="Time of compressor and prefill, in milliseconds per video",
        better="lower",
        show=partial(number, digits=2),
        read=total_ms,
        of_compressor=True,
        hint=True,
        axis=True,
    ),
    Measure(
        "compressor_ms",
        title="compressor",
        unit="ms",
        description="Time of the compressor, in milliseconds per video",
        better="lower",
        show=partial(number, digits=2),
        of_compressor=True,
        required=True,
        axis=True,
        table="cost",
        column=4,
    ),
    Measure(
        "prefill_ms",
        title="prefill",
        unit="ms",
        description="Time of the prefill, in milliseconds per video",
        better="lower",
        show=partial(number, digits=2),
        required=True,
        axis=True,
        table="cost",
        column=5,
    ),
    Measure(
        "speedup",
        title="speed-up",
        description="Time of the prefill of all tokens divided by the time of compressor and prefill together",
        better="higher",
        show=factor,
        of_compressor=True,
        required=True,
        table="cost",
        column=6,
        phrase="speed-up {:.1f}x",
    ),
    Measure(
        "tokens_entered",
        title="visual tokens entering the LM",
        description="Visual tokens in the prompt of the language model, including those that the host adds to the kept "
        "ones",
        better=None,
        show=number,
        required=True,
        hint=True,
        axis=True,
        table="cost",
        column=1,
    ),
    Measure(
        "prefill_flops",
        title="prefill FLOPs",
        description="Floating-point operations of the prefill, computed by formula from the tokens in each layer",
        better="lower",
        show=flops,
        reference="full_prefill_flops",
        required=True,
        hint=True,
        axis=True,
        table="cost",
        column=2,
    ),
    Measure(
        "compressor_flops",
        title="compressor FLOPs",
        description="Floating-point operations of the compressor's matrix products",
        better="lower",
        show=flops,
        of_compressor=True,
        required=True,
        group=None,
        table="cost",
        column=3,
    ),
    Measure(
        "peak_bytes",
        title="peak memory",
        description="Peak memory in addition to weights and features",
        better="lower",
        show=byte_count,
        reference="full_peak_bytes",
        required=True,
        hint=True,
        axis=True,
        table="cost",
        column=7,
    ),
    Measure(
        "answering_ms",
        title="prefill and answers",
        unit="ms",
        description="Time of the prefill and of the answers to all questions about a video, in milliseconds per video",
        better="lower",
        show=partial(number, digits=2),
        required=True,
        group=None,
        table="cost",
        column=8,
    ),
    *IN_LLM_MEASURES,
    *TOTAL_MEASURES,
    *ANSWER_MEASURES,
)


def measures_of_table(table: Literal["answers", "evidence", "cost"]) -> list[Measure]:
    """Return the measures that a table of ``report.md`` shows, in the order of its columns."""
    return sorted((one for one in MEASURES if one.table == table), key=lambda one: one.column)


def summary_measures() -> list[Measure]:
    """Return the measures that the summary of ``report.md`` mentions."""
    return [one for one in MEASURES if one.phrase]


def plotted_measures() -> list[Measure]:
    """Return the measures against which ``report.md`` plots the accuracy."""
    return [one for one in MEASURES if one.plot]


def required_costs() -> list[str]:
    """Return the keys of measures, and of their values with all tokens, that the costs of a result must have."""
    return [key for one in MEASURES if one.required for key in (one.stored or one.key, one.reference) if key]


def page_measures(types: Iterable[str]) -> Sequence[Measure]:
    """Return the measures that the page may show, in the order of its menu.

    Args:
        types: question types of the headline.
    """
    some = [one for one in (*MEASURES, *map(type_measure, types)) if one.group in GROUPS]
    return sorted(some, key=lambda one: GROUPS.index(str(one.group)))
