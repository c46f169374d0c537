"""Pictures of results (matplotlib, extra ``report``)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from framefold.data.synthetic.questions import CHANCE
from framefold.evaluation.results.measure import Measure
from framefold.evaluation.results.settings import ORACLE, ORACLES, SYNTHETIC
from framefold.files import replace_file

from .table import Table, class_of

matplotlib.use("Agg")

Curve = list[tuple[float, float, float, float]]

COLORS = ["#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#bcbd22", "#17becf", "#14286e"]

COLORS += ["#e6ab02", "#00a087", "#7a0177", "#66a61e", "#a6761d"]

MARKERS = "osD^vPX*<>hd"

COLUMNS = 4  # of small panels

APART = 0.012  # between the bars of neighbouring rows, as a share of their place


def plot_accuracy(curves: dict[str, Curve], full: float | None, file: Path) -> None:
    """Accuracy against visual tokens per video, with 95 % intervals.

    Args:
        curves: row -> [(tokens, accuracy, low, high)], accuracies 0 to 1, ascending tokens.
        full: accuracy with all tokens, drawn as a dotted line.
        file: PNG to write, beside and renamed.
    """
    figure, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    _draw(axes, curves, full)
    _budgets(axes, curves)
    axes.set_xlabel("visual tokens per video that enter the language model")
    axes.set_ylabel("accuracy, mean over question types (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    _save(figure, file)


def plot_cost(curves: dict[str, Curve], full: float | None, measure: Measure, file: Path) -> None:
    """Plot accuracy against a measure such as time, on a logarithmic axis.

    Args:
        curves: row -> [(value of the measure, accuracy, low, high)], ascending values.
        full: accuracy with all tokens, drawn as a dotted line, and as a star where the measure has a fixed value.
        measure: on the horizontal axis.
        file: PNG to write.
    """
    figure, axes = plt.subplots(figsize=(10, 5.5), layout="constrained")
    _draw(axes, {name: points for name, points in curves.items() if points}, full, spread=False)
    if full is not None and measure.full_value is not None:
        axes.plot([measure.full_value], [100 * full], marker="*", markersize=13, color="black", linestyle="")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if str(f"{value:e}")[0] in "235" else "")
    axes.set_xlabel(measure.plot)
    axes.set_ylabel("accuracy, mean over question types (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small", frameon=False)
    _save(figure, file)


def plot_types(table: Table, file: Path) -> None:
    """Accuracy against visual tokens, a panel a question type, with 95 % intervals, all tokens and chance."""
    rows = -(-len(table.types) // COLUMNS)
    figure, panels = plt.subplots(
        rows, COLUMNS, figsize=(14, 2.8 * rows + 1), sharex=True, sharey=True, squeeze=False
    )  # no layout engine: it draws everything twice
    figure.subplots_adjust(left=0.05, right=0.87, bottom=0.8 / (2.8 * rows + 1), top=0.96, hspace=0.18, wspace=0.06)
    synthetic = table.sample["settings"]["data"]["kind"] == SYNTHETIC
    whole = table.full_answers.by_type if table.full_answers is not None else {}
    for axes, kind in zip(panels.flat, table.types, strict=False):
        curves = table.curves(lambda name, budget: table.cells_of(name, budget)[0]["tokens"], kind)
        _draw(axes, curves, whole.get(kind), small=True)
        _budgets(axes, curves)
        axes.tick_params(axis="x", labelrotation=45, labelsize="small")
        if synthetic and kind in CHANCE:
            axes.axhline(100 * CHANCE[kind], label="chance", color="grey", linestyle=(0, (1, 4)), linewidth=1.0)
        axes.set_title(kind, fontsize="medium")
    for axes in panels.flat[len(table.types) :]:
        axes.set_visible(False)
    figure.supxlabel("visual tokens per video that enter the language model")
    figure.supylabel("accuracy (%)", x=0.005)
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="upper left", bbox_to_anchor=(0.875, 0.97), fontsize="small", frameon=False)
    _save(figure, file, dpi=110)


def _draw(axes: Axes, curves: dict[str, Curve], full: float | None, spread: bool = True, small: bool = False) -> None:
    """One line a row with intervals, the same look in every picture."""
    looks = _looks(list(curves))
    for i, (name, points) in enumerate(curves.items()):
        if not points:
            continue
        places, value, low, high = (list(column) for column in zip(*points, strict=True))
        errors = [[100 * (v - lo) for v, lo in zip(value, low, strict=True)]]
        errors.append([100 * (hi - v) for v, hi in zip(value, high, strict=True)])
        if spread:  # keep the bars apart
            places = [place * (1 + APART * (i - len(curves) / 2)) for place in places]
        size = {"markersize": 3, "linewidth": 1.0, "elinewidth": 0.7} if small else {"markersize": 5, "capsize": 2}
        axes.errorbar(places, [100 * v for v in value], errors, label=name, **looks[name], **size)
    if full is not None:
        axes.axhline(100 * full, label="all tokens", color="black", linestyle=":", linewidth=1.0)
    axes.grid(alpha=0.3)


def _looks(names: list[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and line of each row: what was trained is solid, what was not dashed, oracles are grey."""
    looks: dict[str, dict[str, Any]] = {}
    place = 0
    for name in sorted(names):
        cls = class_of(name)
        style = "-" if cls is not None and cls.trainable else "--"
        if name in ORACLES:
            color = "black" if name == ORACLE else "dimgrey"
            looks[name] = {"color": color, "marker": ".", "linestyle": "-."}
            continue
        looks[name] = {
            "color": COLORS[place % len(COLORS)],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": style,
        }
        place += 1
    return looks


def _budgets(axes: Axes, curves: dict[str, Curve]) -> None:
    """A logarithmic axis with a tick at each budget."""
    ticks = sorted({round(point[0]) for points in curves.values() for point in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def _save(figure: Any, file: Path, dpi: int = 140) -> None:
    replace_file(file, lambda beside: figure.savefig(beside, dpi=dpi, format="png"))
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
    _save(figure, file)
