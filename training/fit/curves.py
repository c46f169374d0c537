"""``framefold curves``: loss and accuracy of training runs over their steps, from ``metrics.csv`` (matplotlib)."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from framefold.errors import ConfigError
from framefold.files import replace_file

METRICS = "metrics.csv"

Curve = list[tuple[int, float]]  # (step, value), in ascending steps


def draw_curves(runs: list[str], out: str | None = None) -> Path:
    """Draw the loss and the validation accuracy per budget of one or several training runs.

    Args:
        runs: folders of runs (--trainer.default_root_dir), their version_N, or metrics.csv files; of a folder with
            several versions, the newest is drawn.
        out: picture to write (png, svg or pdf); by default curves.png next to the metrics of the first run.

    Returns:
        Path of the picture.

    Raises:
        ConfigError: a run has no metrics, or its metrics are damaged.
        OSError: the picture cannot be written.
    """
    files = [find_metrics(Path(run)) for run in dict.fromkeys(runs)]
    if not files:
        raise ConfigError("name at least one run: framefold curves runs/fit")
    picture = Path(out) if out else files[0].with_name("curves.png")
    if picture.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{picture} must end in .png, .svg or .pdf")
    _draw(dict(zip(_labels(files), map(read_metrics, files), strict=True)), picture)
    print(f"curves of {', '.join(map(str, files))}: {picture}")
    return picture


def find_metrics(run: Path) -> Path:
    """Return the ``metrics.csv`` of a run: the file itself, one in the folder, or that of its newest version.

    Raises:
        ConfigError: there is none.
    """
    if run.is_file():
        return run
    versions = [
        file for file in run.glob(f"version_*/{METRICS}") if file.parent.name.removeprefix("version_").isdigit()
    ]
    newest = sorted(versions, key=lambda file: int(file.parent.name.removeprefix("version_")))[-1:]
    for file in (run / METRICS, *newest):
        if file.is_file():
            return file
    raise ConfigError(
        f"{run} has no {METRICS}: name the folder of a run of 'framefold fit' (not run with --trainer.logger false)"
    )


def read_metrics(file: Path) -> dict[str, Curve]:
    """Return the curve of every metric in a ``metrics.csv``; a step that was logged twice has its last value.

    Raises:
        ConfigError: the file is not a table of numbers with a column "step".
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    try:
        with open(file, newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                step = int(float(row["step"]))
                for name, text in row.items():
                    if text and name != "step":
                        curves[name][step] = float(text)
    except (KeyError, TypeError, ValueError, csv.Error, AttributeError) as error:
        raise ConfigError(f"{file} is not a table of metrics with a column step ({error!r})") from error
    finite = {name: [(s, v) for s, v in sorted(curve.items()) if math.isfinite(v)] for name, curve in curves.items()}
    if not any("loss" in name for name in finite):
        raise ConfigError(f"{file} contains no loss yet: a run writes one every trainer.log_every_n_steps steps")
    return finite


def _labels(files: Iterable[Path]) -> list[str]:
    """Return the shortest paths that distinguish the runs."""
    folders = [file.parent.parts for file in files]
    common = 0
    while len(folders) > 1 and all(len(parts) > common + 1 for parts in folders):
        if len({parts[common] for parts in folders}) > 1:
            break
        common += 1
    return ["/".join(parts[common:]) if len(folders) > 1 else "/".join(parts[-2:]) for parts in folders]


def _draw(runs: dict[str, dict[str, Curve]], picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (losses, accuracies) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for number, (label, curves) in enumerate(runs.items()):
        for name, curve in curves.items():
            metric, _, budget = name.partition("@")
            title = " ".join(
                part for part in (label if len(runs) > 1 else "", metric, f"at {budget}" if budget else "") if part
            )
            if metric in ("train/loss", "val/loss"):
                _line(losses, curve, title, number, dashed=metric == "val/loss")
            elif metric == "val/accuracy" and (budget or "val/loss" in curves):
                _line(accuracies, [(step, 100 * value) for step, value in curve], title, number, dashed=False)
    for axes, text in ((losses, "loss"), (accuracies, "validation accuracy (%)")):
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(text)
        axes.grid(alpha=0.3)
        if axes.get_lines():
            axes.legend(fontsize="small", frameon=False)
        else:
            axes.text(0.5, 0.5, "none logged", ha="center", transform=axes.transAxes)
    replace_file(picture, lambda temporary: figure.savefig(temporary, format=picture.suffix[1:], dpi=120))
    plt.close(figure)


def _line(axes: Any, curve: Curve, label: str, run: int, dashed: bool) -> None:
    steps, values = zip(*curve, strict=True) if curve else ((), ())
    axes.plot(steps, values, "--" if dashed else "-", marker="osD^vP"[run % 6], markersize=4, label=label)
