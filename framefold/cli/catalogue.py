"""``framefold catalogue``: the tables of ``docs/compressors.md``, from the registry and the committed results."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framefold.adapters.core.registry import compressor_class, list_compressors
from framefold.errors import ConfigError
from framefold.evaluation.committed.committed import (
    CommittedResults,
    collect_accuracies,
    collect_sizes,
    collect_times,
    read_committed,
)
from framefold.evaluation.report.markdown import format_table
from framefold.evaluation.results.formats import number, percent
from framefold.evaluation.results.settings import FULL
from framefold.files import replace_file

from .names import compressor_kind

PAGE, ACCURACIES, TIMES = "compressors.md", "measured/accuracies.json", "measured/times.json"

SIZES = "measured/sizes.json"

BEGIN = "<!-- 'framefold catalogue' writes these tables: run it instead of editing them. -->"

END = "<!-- End of these tables. -->"

BUDGETS = (0.1, 0.05)  # of the accuracies

TIME_BUDGET = 0.1

MOST_SHARE = 0.05  # of the prefill that is saved, which a trained compressor should cost at most

WIDTH = 120  # of the lines of text

# Modules of the methods of the page; plugins have their own pages.
OWN = ("framefold.adapters.compressors.", "framefold.adapters.in_llm.")


def catalogue(
    ablation: str | None = None, bench: str | None = None, size: str | None = None, docs: str = "docs"
) -> None:
    """Write the tables of the page about compressors, from the registry and the committed results.

    Without options, only the page is written. A new compressor without results gets its row, with empty cells.

    Args:
        ablation: the --out folder of an ablation, whose accuracies are added to docs/measured/accuracies.json first.
        bench: the --out folder of 'framefold bench compress', whose times are added to docs/measured/times.json first.
        size: the --out folder of 'framefold bench size', whose numbers are added to docs/measured/sizes.json first.
        docs: folder of the page and of the committed results.

    Raises:
        ConfigError: the page is missing, or lacks the comments between which the tables are.
        ResultsError: there are no such results, or they were measured in another setting than the committed ones.
    """
    folder = Path(docs)
    before = _split(folder / PAGE)
    if ablation is not None:
        collect_accuracies(Path(ablation), folder / ACCURACIES)
    if bench is not None:
        collect_times(Path(bench), folder / TIMES)
    if size is not None:
        collect_sizes(Path(size), folder / SIZES)
    text = before[0] + tables(*(read_committed(folder / name) for name in (ACCURACIES, TIMES, SIZES))) + before[1]
    replace_file(folder / PAGE, lambda temporary: temporary.write_text(text))
    print(f"wrote {folder / PAGE}: {len(_classes())} compressors")


def _split(page: Path) -> tuple[str, str]:
    """Return the text before and after the tables of the page."""
    text = page.read_text() if page.is_file() else ""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"{page} must have a line {BEGIN!r} and a line {END!r}: run this in a checkout, or give docs")
    return before + begin, end + after


def tables(accuracies: CommittedResults, times: CommittedResults, sizes: CommittedResults) -> str:
    """Return the tables: what each compressor is, what was measured, its differences from its release, and sizes."""
    parts = [_measured(accuracies, times), _deviations(), _sizes(sizes)]
    return "\n".join(["", _description_table(), *(line for part in parts if part for line in ("", *part)), ""])


def _classes() -> list[type[Any]]:
    """Return the classes of framefold's own compressors: without a publication, of one, and trained ones."""
    classes = [compressor_class(name) for name in list_compressors()]
    own = [cls for cls in classes if cls.__module__.startswith(OWN)]
    return sorted(own, key=lambda cls: (cls.trainable, bool(cls.paper), cls.name))


def _description_table() -> str:
    head = ["name", "kind", "what it keeps", "source", "licence of the release"]
    rows = [[f"`{cls.name}`", compressor_kind(cls), cls.keeps, cls.paper, cls.licence] for cls in _classes()]
    return _format(head, rows)


def _measured(accuracies: CommittedResults, times: CommittedResults) -> list[str]:
    def rank(cls: type[Any]) -> float:
        found = accuracies.accuracy(cls.name, BUDGETS[-1])
        return found.value if found else -1.0

    head = ["name", *(f"accuracy at {100 * budget:g} %" for budget in BUDGETS), "yardsticks", "cost"]
    rows = []
    for cls in sorted(_classes(), key=rank, reverse=True):
        if cls.name != FULL:
            intervals = (percent(accuracies.accuracy(cls.name, budget)) for budget in BUDGETS)
            rows.append([f"`{cls.name}`", *intervals, number(times.slowest(cls.name, TIME_BUDGET)), cls.cost])
    full = accuracies.accuracy(FULL, None)
    rows.append(["all tokens", *[f"{100 * full.value:.1f}" if full else ""] * len(BUDGETS), "", ""])
    return ["## What was measured", "", *_setting_paragraphs(accuracies.setting, times.setting), _format(head, rows)]


def _setting_paragraphs(accuracy: dict[str, Any], time: dict[str, Any]) -> list[str]:
    texts = []
    if accuracy:
        data = accuracy["data"]
        texts.append(
            f"Accuracy in percent, with its 95 % interval, of the embedded host on {accuracy['questions']:,} questions "
            f"about {data['videos']} held-out videos of {data['frames']} frames, see [results.md](results.md) for what "
            "that is worth. A row of a trained compressor contains all its seeds."
        )
    if time:
        height, width = time["grid"]
        texts.append(
            "One yardstick is the time of the cosine similarities of neighbouring frames, computed without "
            f"optimisation. The column has the time at {100 * TIME_BUDGET:g} % for {time['frames']} frames of {height} "
            f"x {width} tokens of width {time['width']} in {time['dtype']} ({time['device']}, threads: "
            f"{time['threads']}), of the slower input of `framefold bench compress`. N is the number of tokens, k that "
            "of the kept ones, D their width."
        )
    return [line for text in texts for line in (textwrap.fill(text, WIDTH, break_on_hyphens=False), "")]


def _deviations() -> list[str]:
    rows = [[f"`{cls.name}`", cls.deviations] for cls in _classes() if cls.deviations]
    text = "`exact`, the default, meets every budget. Most releases do not, and differ in other ways as well."
    return ["## Differences from the releases", "", text, "", _format(["name", "how `exact` differs"], rows)]


def _sizes(sizes: CommittedResults) -> list[str]:
    if not sizes.values:
        return []
    frames, (height, width) = sizes.setting["frames"], sizes.setting["grid"]
    text = (
        f"For {frames} frames of {height} x {width} tokens of width {sizes.setting['width']:,}, of which "
        f"{100 * sizes.setting['budget']:g} % are kept (`framefold bench size`). GFLOP are those of matrix products "
        "and attention in one forward pass, with the counterpart included and also apart; k-means needs more or fewer "
        "rounds on other videos. The last column is their share of the operations that the prefill of Qwen2.5-7B "
        f"saves, which should be at most {100 * MOST_SHARE:g} %; a higher one is marked with `!`."
    )
    head = ["name", "counterpart", "parameters", "GFLOP", "of the counterpart", "share of the saved prefill"]
    rows = []
    for name, row in sorted(sizes.values.items(), key=lambda item: item[1]["flops"]):
        share = row["flops"] / row["saved_flops"]
        gflop = (f"{row[key] / 1e9:,.1f}" for key in ("flops", "counterpart_flops"))
        mark = " !" if share > MOST_SHARE else ""
        counterpart = f"`{row['counterpart']}`" if row["counterpart"] else ""
        rows.append([f"`{name}`", counterpart, f"{row['parameters']:,}", *gflop, f"{100 * share:.2f} %{mark}"])
    wrapped = textwrap.fill(text, WIDTH, break_on_hyphens=False)
    return ["## Size of trained compressors", "", wrapped, "", _format(head, rows)]


def _format(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return format_table(head, [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows])
