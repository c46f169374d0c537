"""Plots of results, drawn with matplotlib (extra ``report``)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from framefold.data.synthetic.questions import CHANCE
from framefold.evaluation.results.measure import Measure
from framefold.evaluation.results.settings import SYNTHETIC
from framefold.files import replace_file

from .styles import COLORS, DASHES, SYMBOLS, Style, method_styles
from .table import Curve, ResultTable

matplotlib.use("Agg")

Styles = Mapping[str, Style]

PANEL_COLUMNS = 4  # panels in a row of the plot by type

SPACING = 0.012  # distance between the error bars of neighbouring methods, as a share of their position

TOKENS_LABEL = "visual tokens per video in the language model, mean over its layers"

CLOSEST_TICKS = 1.08  # least ratio of two ticks of the logarithmic axis, so that their texts do not overlap

ACCURACY_LABEL = "accuracy, mean over question types (%)"


def plot_accuracy(curves: dict[str, Curve], styles: Styles, full: float | None, file: Path) -> None:
    """Plot accuracy against visual tokens per video, with 95 % intervals.

    Args:
        curves: method -> points in ascending number of tokens.
        styles: method -> its style.
        full: accuracy with all tokens, drawn as a dotted line; None leaves it out.
        file: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    _draw_curves(axes, curves, styles, full)
    _set_token_ticks(axes, curves)
    axes.set_xlabel(TOKENS_LABEL)
    axes.set_ylabel(ACCURACY_LABEL)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    _save(figure, file)


def plot_cost(curves: dict[str, Curve], styles: Styles, full: float | None, measure: Measure, file: Path) -> None:
    """Plot accuracy against a measure such as time, on a logarithmic axis.

    Args:
        curves: method -> points in ascending value of the measure.
        styles: method -> its style.
        full: accuracy with all tokens, drawn as a dotted line, and as a star if the measure has a fixed value for them;
            None leaves it out.
        measure: measure on the horizontal axis.
        file: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    _draw_curves(axes, {method: points for method, points in curves.items() if points}, styles, full, spread=False)
    if full is not None and measure.full_value is not None:
        axes.plot([measure.full_value], [100 * full], marker="*", markersize=13, color="black", linestyle="")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:e}")[0] in "235" else "")
    axes.set_xlabel(measure.definition)
    axes.set_ylabel(ACCURACY_LABEL)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    _save(figure, file)


def plot_types(table: ResultTable, file: Path) -> None:
    """Plot accuracy against visual tokens in one panel per question type, with all tokens and the level of chance."""
    styles = method_styles({method: table.kind(method) for method in table.methods})
    rows = -(-len(table.types) // PANEL_COLUMNS)
    figure, panels = plt.subplots(
        rows, PANEL_COLUMNS, figsize=(14, 2.8 * rows + 1), sharex=True, sharey=True, squeeze=False
    )  # without a layout engine, which would draw everything twice
    figure.subplots_adjust(left=0.05, right=0.87, bottom=0.8 / (2.8 * rows + 1), top=0.96, hspace=0.18, wspace=0.06)
    synthetic = table.sample["settings"]["data"]["kind"] == SYNTHETIC
    full = table.full_answers.by_type if table.full_answers is not None else {}
    for axes, kind in zip(panels.flat, table.types, strict=False):
        curves = table.curves(lambda method, budget: table.results_of(method, budget)[0]["tokens"], kind)
        _draw_curves(axes, curves, styles, full.get(kind), small=True)
        _set_token_ticks(axes, curves)
        axes.tick_params(axis="x", labelrotation=45, labelsize="small")
        if synthetic and kind in CHANCE:
            axes.axhline(100 * CHANCE[kind], label="chance", color="grey", linestyle=(0, (1, 4)), linewidth=1.0)
        axes.set_title(kind, fontsize="medium")
    for axes in panels.flat[len(table.types) :]:
        axes.set_visible(False)
    figure.supxlabel(TOKENS_LABEL)
    figure.supylabel("accuracy (%)", x=0.005)
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper left", bbox_to_anchor=(0.875, 0.97), fontsize="small", frameon=False)
    _save(figure, file, dpi=110)


def _draw_curves(
    axes: Axes, curves: dict[str, Curve], styles: Styles, full: float | None, spread: bool = True, small: bool = False
) -> None:
    """Draw a line with intervals for each method, in the same style in every plot.

    Args:
        axes: where to draw.
        curves: method -> points.
        styles: method -> its style.
        full: accuracy with all tokens.
        spread: whether to shift the methods a little, so that their error bars do not overlap.
        small: whether the panel is small.
    """
    for i, (method, points) in enumerate(curves.items()):
        if not points:
            continue
        positions, value, low, high = (list(column) for column in zip(*points, strict=True))
        errors = [[100 * (v - lo) for v, lo in zip(value, low, strict=True)]]
        errors.append([100 * (hi - v) for v, hi in zip(value, high, strict=True)])
        if spread:
            positions = [position * (1 + SPACING * (i - len(curves) / 2)) for position in positions]
        size = {"markersize": 3, "linewidth": 1.0, "elinewidth": 0.7} if small else {"markersize": 5, "capsize": 2}
        axes.errorbar(positions, [100 * v for v in value], errors, label=method, **_look(styles[method]), **size)
    if full is not None:
        axes.axhline(100 * full, label="all tokens", color="black", linestyle=":", linewidth=1.0)
    axes.grid(alpha=0.3)


def _look(style: Style) -> dict[str, Any]:
    """Return a style as arguments of matplotlib."""
    return {"color": COLORS[style.color], "marker": SYMBOLS[style.symbol], "linestyle": DASHES[style.dash]}


def _set_token_ticks(axes: Axes, curves: dict[str, Curve]) -> None:
    """Set a logarithmic axis with a tick at the number of tokens of each budget."""
    ticks: list[int] = []
    for tokens in sorted({round(point[0]) for points in curves.values() for point in points}, reverse=True):
        if not ticks or ticks[-1] >= CLOSEST_TICKS * tokens:
            ticks.append(tokens)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _save(figure: Any, file: Path, dpi: int = 140) -> None:
    replace_file(file, lambda temporary: figure.savefig(temporary, dpi=dpi, format="png"))
    plt.close(figure)


def plot_times(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot the time of compressors against the tokens of a video, one panel per input, on logarithmic axes.

    Args:
        rows: measurements of ``framefold bench compress``; those of one compressor at several budgets are averaged.
        file: PNG to write.
    """
    inputs = list(dict.fromkeys(row["input"] for row in rows))
    figure, panels = plt.subplots(
        1, len(inputs), figsize=(6 * len(inputs), 5), layout="constrained", sharey=True, squeeze=False
    )
    for name, axes in zip(inputs, panels[0], strict=True):
        curves: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            if row["input"] == name:
                curves[row["compressor"]][row["tokens_in"]].append(1e3 * row["seconds"])
        for i, (compressor, points) in enumerate(curves.items()):
            means = [sum(times) / len(times) for times in points.values()]
            look = {"marker": list(SYMBOLS.values())[i % len(SYMBOLS)], "color": COLORS[i % len(COLORS)]}
            axes.plot(list(points), means, label=compressor, **look)
        axes.set(xscale="log", yscale="log", title=f"input: {name}", xlabel="visual tokens of the video")
        axes.grid(alpha=0.3, which="both")
    panels[0][0].set_ylabel("milliseconds")
    panels[0][0].legend(fontsize="small")
    _save(figure, file)
