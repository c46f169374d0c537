"""Pictures of results (matplotlib, extra ``report``)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from ..adapters.folder import replace_file  # noqa: E402

Curve = list[tuple[float, float, float, float]]


def plot_accuracy(curves: dict[str, Curve], full: float | None, file: Path) -> None:
    """Accuracy against visual tokens per video, with 95 % intervals.

    Args:
        curves: row -> [(tokens, accuracy, low, high)], accuracies 0 to 1, ascending tokens.
        full: accuracy with all tokens, drawn as a dotted line.
        file: PNG to write, beside and renamed.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    markers = "osD^vPX*<>"
    for i, (name, points) in enumerate(curves.items()):
        tokens, value, low, high = (list(column) for column in zip(*points, strict=True))
        errors = [[100 * (v - lo) for v, lo in zip(value, low, strict=True)]]
        errors.append([100 * (hi - v) for v, hi in zip(value, high, strict=True)])
        shifted = [t * (1 + 0.012 * (i - len(curves) / 2)) for t in tokens]  # keep the bars apart
        style = "--" if name.startswith("oracle") else "-"
        percent = [100 * v for v in value]
        axes.errorbar(
            shifted, percent, errors, label=name, marker=markers[i % len(markers)], linestyle=style, capsize=2
        )
    if full is not None:
        axes.axhline(100 * full, label="all tokens", color="black", linestyle=":", linewidth=1.0)
    ticks = sorted({round(point[0]) for points in curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens per video that enter the language model")
    axes.set_ylabel("accuracy, mean over question types (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)
    replace_file(file, lambda beside: figure.savefig(beside, dpi=140, format="png"))
    plt.close(figure)


def plot_times(rows: list[dict[str, Any]], file: Path) -> None:
    """Time of compressors against the tokens of a video, one panel an input, both axes logarithmic.

    Args:
        rows: what ``framefold bench compress`` returns; budgets of a compressor are averaged.
        file: PNG to write, beside and renamed.
    """
    kinds = list(dict.fromkeys(row["input"] for row in rows))
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(6 * len(kinds), 5), layout="constrained", sharey=True, squeeze=False
    )
    for kind, axes in zip(kinds, panels[0], strict=True):
        curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row["input"] == kind:
                curves[row["compressor"]][row["tokens_in"]].append(1e3 * row["seconds"])
        for i, (name, points) in enumerate(curves.items()):
            means = [sum(times) / len(times) for times in points.values()]
            axes.plot(list(points), means, label=name, marker="osD^vPX*<>"[i % 10])
        axes.set(xscale="log", yscale="log", title=f"input: {kind}", xlabel="visual tokens of the video")
        axes.grid(alpha=0.3, which="both")
    panels[0][0].set_ylabel("milliseconds")
    panels[0][0].legend(fontsize="small")
    replace_file(file, lambda beside: figure.savefig(beside, dpi=140, format="png"))
    plt.close(figure)
