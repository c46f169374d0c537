"""Results that are committed with the source, without their answers: accuracies of an ablation, times of a benchmark.

The JSON file of each has the setting, and numbers by compressor and budget. Collecting results of further compressors
adds them to the file, and replaces older numbers of the same ones, as long as the setting is the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from framefold.adapters.pretrained.card import budget_text
from framefold.errors import ResultsError
from framefold.evaluation.metrics.statistics import Interval
from framefold.evaluation.report.references import reference_readings
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.result_files import read_results
from framefold.evaluation.results.settings import FULL, LOCATIONS, SHARED
from framefold.files import replace_file
from framefold.messages import short

DIGITS = 5  # of accuracies and times

ALL_TOKENS = budget_text(None)

TIME_SETTING = ("frames", "grid", "width", "dtype", "device", "threads")

SIZE_SETTING = ("frames", "grid", "width", "budget")

SIZE_NUMBERS = ("compressor", "params", "counterpart", "parameters", "flops", "counterpart_flops", "saved_flops")


@dataclass(frozen=True)
class CommittedResults:
    """Numbers by compressor and budget, measured in one setting.

    Attributes:
        setting: what all numbers have in common.
        values: name of the compressor -> label of the budget -> numbers.
    """

    setting: dict[str, Any] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def accuracy(self, name: str, budget: float | None) -> Interval | None:
        """Return the accuracy of a compressor at a budget (None: all tokens); None if it was not measured."""
        found = self.values.get(name, {}).get(budget_text(budget))
        return None if found is None else Interval(*found)

    def slowest(self, name: str, budget: float) -> float | None:
        """Return the time of a compressor in yardsticks, of its slowest input; None if it was not measured."""
        found = self.values.get(name, {}).get(budget_text(budget))
        return None if found is None else max(found.values())


def read_committed(file: Path) -> CommittedResults:
    """Return the results of a file; empty ones if there is no file.

    Raises:
        ResultsError: the file is damaged.
    """
    if not file.exists():
        return CommittedResults()
    try:
        content = json.loads(file.read_text())
        return CommittedResults(content["setting"], content["values"])
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{file} is damaged ({error}): delete it and collect the results again") from error


def collect_accuracies(folder: Path, file: Path) -> CommittedResults:
    """Add the accuracies of an ablation, with their intervals, to a file.

    Args:
        folder: the ``--out`` folder of ``framefold ablate``.
        file: file of the committed results.

    Raises:
        ResultsError: there are no results, one is damaged, or the file has results in another setting.
    """
    table = ResultTable(read_results(folder))
    settings = table.sample["settings"]
    data = {name: value for name, value in settings["data"].items() if name not in LOCATIONS}
    setting = {name: settings[name] for name in ("host", *SHARED)} | {"data": data, "questions": table.sample["n"]}
    values: dict[str, dict[str, Any]] = {}
    for method in table.methods:
        intervals = {budget: table.interval(method, budget) for budget in table.by_method[method]}
        values[method] = {budget: _rounded(interval) for budget, interval in intervals.items() if interval}
    if full := reference_readings(table, FULL):
        values[FULL] = {ALL_TOKENS: _rounded(full.accuracy)}
    return _add(file, setting, values)


def collect_times(folder: Path, file: Path) -> CommittedResults:
    """Add the times of a benchmark of compressors, in yardsticks, to a file.

    Args:
        folder: the ``--out`` folder of ``framefold bench compress``, with videos of one length.
        file: file of the committed results.

    Raises:
        ResultsError: there is no benchmark, it is damaged, it has videos of several lengths, or the file has results in
            another setting.
    """
    source = folder / "bench.json"
    try:
        content = json.loads(source.read_text())
        rows = [row for row in content["rows"] if row["budget"] is not None]
        lengths = {row["frames"] for row in rows}
        setting = {name: content[name] for name in TIME_SETTING if name != "frames"} | {"frames": max(lengths)}
        values: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(dict))
        for row in rows:
            values[row["compressor"]][budget_text(row["budget"])][row["input"]] = round(row["yardsticks"], DIGITS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{source} is missing or damaged ({error}): run 'framefold bench compress'") from error
    if len(lengths) > 1:
        raise ResultsError(f"{source} has videos of several lengths: run 'framefold bench compress' with one")
    return _add(file, setting, values)


def collect_sizes(folder: Path, file: Path) -> CommittedResults:
    """Add parameters and operations of trained compressors to a file.

    Args:
        folder: the ``--out`` folder of ``framefold bench size``.
        file: file of the committed results.

    Raises:
        ResultsError: there are no sizes, they are damaged, or the file has results in another setting.
    """
    source = folder / "size.json"
    values: dict[str, dict[str, Any]] = {}
    try:
        content = json.loads(source.read_text())
        setting = {name: content[name] for name in SIZE_SETTING}
        for row in content["rows"]:
            values[row["name"]] = {key: row[key] for key in SIZE_NUMBERS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{source} is missing or damaged ({error}): run 'framefold bench size'") from error
    return _add(file, setting, values)


def _rounded(interval: Interval | None) -> list[float]:
    assert interval is not None
    return [round(number, DIGITS) for number in (interval.value, interval.low, interval.high)]


def _add(file: Path, setting: Mapping[str, Any], values: Mapping[str, Mapping[str, Any]]) -> CommittedResults:
    """Add numbers to a file, compressor by compressor, and return its content."""
    plain = json.loads(json.dumps({"setting": setting, "values": values}))
    before = read_committed(file)
    for name in {**before.setting, **plain["setting"]} if before.setting else ():
        theirs, ours = before.setting.get(name), plain["setting"].get(name)
        if theirs != ours and name not in LOCATIONS:
            raise ResultsError(
                f"{file} has results with {name} {short(theirs)}, and the new ones have {short(ours)}: "
                "delete it to begin with the new ones"
            )
    merged = {**before.values, **plain["values"]}
    results = CommittedResults(plain["setting"], {name: merged[name] for name in sorted(merged)})
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in results.values.items())
    text = f'{{"setting": {json.dumps(results.setting)},\n"values": {{\n{lines}\n}}}}\n'  # a line per compressor
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda temporary: temporary.write_text(text))
    return results
