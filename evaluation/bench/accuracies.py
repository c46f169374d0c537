"""Accuracies of methods that were measured here: from ablations with all answers, or from a file of committed ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from framefold.adapters.pretrained.card import budget_text
from framefold.errors import ConfigError, ResultsError
from framefold.evaluation.committed.committed import read_committed
from framefold.evaluation.metrics.statistics import macro_resamples, same_questions
from framefold.evaluation.results.result_files import Result, count_answers, read_results
from framefold.evaluation.results.settings import FULL, check_comparable

Place = tuple[str, str]  # name of a method, label of a budget


@dataclass(frozen=True)
class Measured:
    """Accuracies of methods at budgets.

    Attributes:
        accuracies: 0 to 1.
        resampled: (R,) accuracies on resampled videos; nothing where the answers are not known.
    """

    accuracies: dict[Place, float]
    resampled: dict[Place, np.ndarray] = field(default_factory=dict)


def read_measured(paths: Sequence[Path]) -> Measured:
    """Return the accuracies of ablations, or of a file of committed ones.

    Args:
        paths: folders of 'framefold ablate', or one JSON file.

    Raises:
        ResultsError: there are none, they cannot be compared, or two are of the same method at the same budget.
        ConfigError: there is no path, or a file beside others.
    """
    files = [path for path in paths if path.suffix == ".json"]
    if not paths:
        raise ConfigError("results names no folder: give the --out folder of 'framefold ablate'")
    if files and len(paths) > 1:
        raise ConfigError(f"{files[0]} has no answers: give either one file or folders of 'framefold ablate'")
    if files:
        values = read_committed(files[0]).values
        accuracies = {(name, label): one[0] for name, budgets in values.items() for label, one in budgets.items()}
        if not accuracies:
            raise ResultsError(f"no accuracies in {files[0]}: run 'framefold catalogue --ablation' first")
        return Measured(accuracies)
    return _measure(_read_folders(paths))


def _read_folders(folders: Sequence[Path]) -> dict[Place, list[Result]]:
    """Return the results by method and budget; several of one place are of several seeds."""
    places: dict[Place, list[Result]] = {}
    for folder in folders:
        new: dict[Place, list[Result]] = {}
        for result in (one for one in read_results(folder) if one["compressor"] != FULL):
            new.setdefault((result["compressor"], budget_text(result["budget"])), []).append(result)
        if twice := new.keys() & places.keys():
            name, label = min(twice)
            raise ResultsError(f"{folder} has {name} at {label} again: name only one folder with it")
        places |= new
    if not places:
        raise ResultsError(f"{folders[0]} has no compressor: run 'framefold ablate' with some")
    check_comparable([result["settings"] for found in places.values() for result in found], folders[0])
    return places


def _measure(places: Mapping[Place, Sequence[Result]]) -> Measured:
    answers = {place: count_answers(found) for place, found in places.items()}
    first = next(iter(answers))
    for place, counts in answers.items():
        if not same_questions(answers[first], counts):
            raise ResultsError(f"{first[0]} and {place[0]} were not asked the same questions: run one of them again")
    accuracies = {place: counts.macro for place, counts in answers.items()}
    return Measured(accuracies, {place: macro_resamples(counts) for place, counts in answers.items()})
