"""What the page's table can show and its plots have for an axis."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .table import Table

RIGHT, TYPES, COSTS = "answers", "accuracy on one type", "costs"  # groups of the menu


@dataclass(frozen=True)
class Measure:
    """A number that there is for a row at a budget.

    Attributes:
        key: its name in the data. label: in menus and hints. long: above the table. group: in the menu.
        better: "higher" or "lower"; None: neither, or not worth a mark.
        note: beside the menu. hint: whether it is told beside every mark. axis: whether a plot can have it for an axis.
        against: whether it compares with the baseline.
    """

    key: str
    label: str
    long: str
    group: str
    better: str | None
    note: str = ""
    hint: bool = False
    axis: bool = False
    against: bool = False


def measures(results: Table, tests: int) -> list[dict[str, Any]]:
    """All that there may be, in the order of the menu.

    Args:
        tests: in the family that p is corrected for.
    """
    mean = "Accuracy in percent, mean over question types, with its 95 % interval"
    answers = [
        Measure("accuracy", "accuracy, %", mean, RIGHT, "higher"),
        *_against(results.baseline, tests),
        *_EVIDENCE,
    ]
    types = [
        Measure(f"type:{kind}", f"accuracy on {kind}, %", f"Accuracy on {kind} in percent", TYPES, "higher")
        for kind in results.types
    ]
    return [asdict(measure) for measure in [*answers, *types, *_COSTS]]


def _against(baseline: str | None, tests: int) -> list[Measure]:
    long = (
        f"Accuracy minus that of {baseline} on the same questions, in points, with the 95 % interval of the difference"
    )
    note = f"* p < 0.05, ** p < 0.01, *** p < 0.001: sign-flip test, Holm-corrected for the {tests} tests of this table"
    p = "p of the difference to the baseline: sign-flip test, and McNemar's, both Holm-corrected"
    return [
        Measure("difference", f"minus {baseline}, points", long, RIGHT, "higher", note=note, hint=True, against=True),
        Measure("p", "p (sign-flip, Holm)", p, RIGHT, None, hint=True, against=True),
    ]


_EVIDENCE = [
    Measure(
        "recall",
        "evidence kept, %",
        "Share of the visual tokens with the question's evidence that went into a kept token, in percent",
        RIGHT,
        "higher",
        hint=True,
    ),
    Measure(
        "purity",
        "evidence undiluted, %",
        "Mean share of evidence in the tokens that the evidence went into, in percent: merging dilutes it",
        RIGHT,
        "higher",
    ),
]

_COSTS = [
    Measure(
        "time",
        "time, % of that with all tokens",
        "Measured time of compressor and prefill, in percent of the prefill of all tokens in the same process",
        COSTS,
        "lower",
        hint=True,
        axis=True,
    ),
    Measure(
        "total_ms",
        "compressor + prefill, ms",
        "Compressor and prefill, in milliseconds a video",
        COSTS,
        "lower",
        hint=True,
        axis=True,
    ),
    Measure("compressor_ms", "compressor, ms", "Compressor alone, in milliseconds a video", COSTS, "lower", axis=True),
    Measure("prefill_ms", "prefill, ms", "Prefill alone, in milliseconds a video", COSTS, "lower", axis=True),
    Measure(
        "speedup",
        "speed-up",
        "By how much the prefill of all tokens takes longer than compressor and prefill together",
        COSTS,
        "higher",
    ),
    Measure(
        "tokens_entered",
        "tokens that enter the LM",
        "Columns of video in the prompt of the language model, with what the host adds to the kept tokens",
        COSTS,
        None,
        hint=True,
    ),
    Measure(
        "prefill_flops",
        "prefill FLOPs",
        "Operations of the prefill, by formula",
        COSTS,
        "lower",
        hint=True,
        axis=True,
    ),
    Measure(
        "peak_bytes",
        "peak memory",
        "Peak memory beside weights and features",
        COSTS,
        "lower",
        hint=True,
        axis=True,
    ),
]
