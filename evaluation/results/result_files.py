"""Result files of an ablation: one JSON file per method, budget and seed, from which every table can be derived.

A file contains the settings of a result and what was measured, down to every answer:

- ``accuracy``, ``accuracy_interval``, ``accuracy_micro``, ``accuracy_by_type``, ``n`` (number of questions), ``tokens``
  (mean number of kept tokens), ``evidence_recall`` and ``evidence_purity`` (see
  :mod:`framefold.evaluation.metrics.evidence`; None if nothing is annotated).
- ``answer_loss`` and ``answer_overlap``, means over the questions of the headline, see
  :class:`~framefold.evaluation.ablation.ask.DecodedAnswer`; results of earlier versions lack them.
- ``cost``: the stored numbers of :mod:`.measures`, and what :class:`~framefold.evaluation.ablation.cost.CostMeter` says
  about them.
- ``answers``: columns of equal length with one entry per question, in the same order in all files of a folder.
  ``video`` is the number of the video, ``draw`` that of its cluster (twin videos share one), ``answer`` the right
  answer, ``said`` that of the host; ``type``, ``question``, ``correct``, ``tokens``, ``recall`` and ``purity``.
- ``kept``: the kept tokens of the first ``drill`` videos, with one entry per video, or per question if the method is
  query-aware. ``video``, ``key``, ``row`` (number of the question among the answers; None for all questions about the
  video), ``grid`` (T, H, W), ``index`` (anchors in the flattened grid), ``size`` (number of originals that each kept
  token stands for; None if all are 1).
- ``equal``: what methods at a budget have in common, "tokens" (as the mean over the layers) or "flops". With "flops",
  ``cost`` has ``equal_flops``, the FLOPs that were allowed, and ``equal_budget``, the budget that was found.
- ``settings``, ``versions``, ``git``, ``machine``, ``started``, ``finished``, ``damaged`` (number of videos left out).
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from framefold.errors import ResultsError
from framefold.evaluation.metrics.statistics import Answers, macro_interval
from framefold.files import replace_file

from .compact import read_compact
from .measures import required_costs
from .measures_of_answers import LOSSES
from .provenance import git_state, machine, now, versions
from .settings import EQUAL_FLOPS_SUFFIX, Settings, check_comparable

Result = dict[str, Any]  # content of a result file

SCHEMA = 3

FOLDER = "cells"

ANSWER_COLUMNS = ("video", "draw", "type", "question", "answer", "said", "correct", "tokens", "recall", "purity")

# Columns that older results lack: middle of the evidence in the video, part of the frame, whether the answer is right
# when the video was compressed for another question (None for methods that do not read it), and the loss of each token
# of the right answer (None for answers of one token).
FURTHER_COLUMNS = ("when", "where", "again", LOSSES)

ANSWER_MEASURES = ("loss", "overlap")

LEFT_OUT_FIELDS = ("tokens", "smallest", "reason")  # of a cell that was left out, see .left_out

REQUIRED_FIELDS = ("answers", "n", "tokens", "cost", "kept", "drill")

REQUIRED_COSTS = (*required_costs(), "full_prefill_ms", "memory_of")


@dataclass(frozen=True)
class Outcome:
    """What was measured of a method at a budget with a seed.

    Attributes:
        answers: one record per answer, with the keys of ``ANSWER_COLUMNS``, and with ``loss`` and ``overlap``.
        cost: numbers with the keys of ``REQUIRED_COSTS``, and perhaps further ones.
        kept: records of kept tokens, see the module.
        kept_videos: number of videos, from the first, whose kept tokens were recorded.
        started: time of the start in UTC.
        damaged: number of videos that could not be read and were left out.
        device: device that computed.
    """

    answers: list[dict[str, Any]]
    cost: dict[str, Any]
    kept: list[dict[str, Any]]
    kept_videos: int
    started: str
    damaged: int = 0
    device: torch.device = torch.device("cpu")


def write_result(out: Path, settings: Settings, outcome: Outcome) -> Result:
    """Write a result file atomically and return its content.

    Args:
        out: folder of the results.
        settings: settings of the result.
        outcome: what was measured.
    """
    columns = {name: [answer[name] for answer in outcome.answers] for name in ANSWER_COLUMNS}
    further = {name: [answer.get(name) for answer in outcome.answers] for name in FURTHER_COLUMNS}
    columns |= {name: values for name, values in further.items() if any(value is not None for value in values)}
    everything, headline = _count(columns), _count(columns, settings.exclude)
    interval = macro_interval(headline)
    result = {
        "schema": SCHEMA,
        "compressor": settings.compressor,
        "budget": settings.budget,
        "seed": settings.seed,
        "equal": "flops" if settings.compressor.endswith(EQUAL_FLOPS_SUFFIX) else "tokens",
        "host": settings.host,
        "tokens": sum(columns["tokens"]) / len(outcome.answers),
        "n": len(outcome.answers),
        "accuracy": headline.macro,
        "accuracy_interval": [interval.low, interval.high],
        "accuracy_micro": everything.micro,
        "accuracy_by_type": everything.by_type,
        "evidence_recall": mean_of_known(columns["recall"]),
        "evidence_purity": mean_of_known(columns["purity"]),
        **{f"answer_{name}": _headline_mean(outcome, name, settings.exclude) for name in ANSWER_MEASURES},
        "cost": outcome.cost,
        "damaged": outcome.damaged,
        "settings": settings.to_dict(),
        "versions": versions(),
        "git": git_state(),
        "machine": machine(outcome.device),
        "started": outcome.started,
        "finished": now(),
        "drill": outcome.kept_videos,
        "kept": outcome.kept,
        "answers": columns,
    }
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, separators=(",", ":")) + "\n"
    replace_file(folder / settings.file, lambda temporary: temporary.write_text(text))
    return result


def _headline_mean(outcome: Outcome, name: str, exclude: Container[str]) -> float | None:
    return mean_of_known(one.get(name) for one in outcome.answers if one["type"] not in exclude)


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def stored_number(result: Result, key: str) -> float | None:
    """Return a number of a result by its key, among its costs or its own fields; None if there is none."""
    number = result["cost"].get(key, result.get(key))
    return None if number is None else float(number)


def read_result(out: Path, settings: Settings, kept_videos: int = 0) -> Result | None:
    """Return the result with these settings, or None if it must be computed.

    Args:
        out: folder of the results.
        settings: settings of the result.
        kept_videos: number of videos whose kept tokens the result must contain.
    """
    try:
        result = json.loads((out / FOLDER / settings.file).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(result, dict) or result.get("schema") != SCHEMA:
        return None
    if any(name not in result for name in REQUIRED_FIELDS) or not settings.matches(result.get("settings")):
        return None
    return result if result["drill"] >= kept_videos else None


def read_results(out: Path) -> list[Result]:
    """Return all results of a folder, or of a file that :mod:`.compact` has written.

    Raises:
        ResultsError: there are none, one is damaged, or they cannot be compared.
    """
    results = read_compact(out)[0] if out.is_file() else stored_results(out)
    if not results:
        raise ResultsError(f"no results in {out / FOLDER}: run 'framefold ablate --out {out}' first")
    check_comparable([result["settings"] for result in results], out / FOLDER)
    first = results[0]
    for result in results:
        if any(result["answers"][name] != first["answers"][name] for name in ("video", "question", "answer")):
            files = " and ".join(Settings(**one["settings"]).file for one in (first, result))
            raise ResultsError(
                f"{out / FOLDER}: {files} are about different questions: delete the older ones and run again"
            )
    return results


def stored_results(out: Path, without: Container[str] = ()) -> list[Result]:
    """Return the results of a folder; none if there are no files.

    Args:
        out: folder of the results.
        without: names of files to leave out.

    Raises:
        ResultsError: a file is damaged.
    """
    return [content for _, content in stored_files(out, without) if "left_out" not in content]


def stored_files(out: Path, without: Container[str] = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the files of a folder in order, of results and of cells that were left out, with their contents.

    Args:
        out: folder of the results.
        without: names of files to leave out.

    Raises:
        ResultsError: one is damaged.
    """
    for file in sorted((out / FOLDER).glob("*.json")):
        if file.name in without:
            continue
        try:
            content = json.loads(file.read_text())
            if not isinstance(content, dict):
                raise ValueError("not a JSON object")
            if content.get("schema") == SCHEMA:
                _check(content)
        except (ValueError, KeyError, TypeError) as error:
            raise ResultsError(f"{file} is damaged ({error}): delete it and run 'framefold ablate' again") from error
        if content.get("schema") != SCHEMA:
            raise ResultsError(f"{file} has schema {content.get('schema')}, not {SCHEMA}: run 'framefold ablate' again")
        yield file, content


def _check(result: Result) -> None:
    """Raise an error if a result lacks something that a table needs."""
    Settings(**result["settings"])
    if "left_out" in result:
        if missing := [name for name in LEFT_OUT_FIELDS if name not in result["left_out"]]:
            raise ValueError(f"no {missing[0]}")
        return
    if missing := [name for name in REQUIRED_FIELDS if name not in result]:
        raise ValueError(f"no {missing[0]}")
    if missing := [name for name in REQUIRED_COSTS if name not in result["cost"]]:
        raise ValueError(f"no {missing[0]}")
    lengths = {len(result["answers"][name]) for name in ANSWER_COLUMNS}
    if lengths != {result["n"]}:
        raise ValueError(f"columns of {sorted(lengths)} answers instead of {result['n']}")


def count_answers(results: Iterable[Result]) -> Answers:
    """Count the answers of a method at a budget to questions of the headline; those of several seeds are added up."""
    total: Answers | None = None
    for result in results:
        counts = _count(result["answers"], result["settings"]["exclude"])
        total = counts if total is None else total + counts
    if total is None:
        raise ResultsError("no result to count")
    return total


def _count(columns: dict[str, list[Any]], exclude: Iterable[str] = ()) -> Answers:
    return Answers.count(columns["draw"], columns["type"], columns["correct"], exclude)
