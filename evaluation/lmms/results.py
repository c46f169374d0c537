"""Results of ``framefold eval`` on disk: one JSON a task, joined into ``eval.json``, and how a report reads them.

What lmms-eval measured stands as it reports it; what each answer took is ours.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from framefold.errors import EvalError
from framefold.files import replace_file

from .answer_log import Row, efficiency, notes
from .settings import EvalSettings, difference, json_value, read_settings

SCHEMA = 1

JOINED, FOLDER = "eval.json", "tasks"

# What lmms-eval puts into a logged sample beside the values of its metrics.
NO_METRIC = {"doc_id", "doc", "target", "arguments", "input", "input_media", "resps", "filtered_resps", "token_counts"}

NO_METRIC |= {"doc_hash"}

COPIED = ("results", "n-samples", "versions", "higher_is_better", "group_subtasks", "task_hashes")

PACKAGES = ("framefold", "torch", "transformers", "lmms_eval", "datasets")


@dataclass(frozen=True)
class EvalRow:
    """One metric of one task by one compressor, with what its answers took.

    Attributes:
        compressor: name of the row, with " (LoRA)" where the host ran with that; budget: share or number of tokens.
        host: folder or Hub id. task: of lmms-eval, a subtask or the group of several.
        metric: its name; value, stderr: as lmms-eval reports them, that by clusters (such as videos) where it has one.
        better: "higher", "lower", or "" where the task does not say. n: answers.
        efficiency: see :func:`~framefold.evaluation.lmms.answer_log.efficiency`.
    """

    compressor: str
    budget: float | int | str
    host: str
    task: str
    metric: str
    value: float
    stderr: float | None
    better: str
    n: int
    efficiency: dict[str, Any]


def file_of(out: Path, task: str) -> Path:
    """Where the results of a task are."""
    return out / FOLDER / f"{quote(task, safe='')}.json"


def answer_log_file(out: Path, task: str) -> Path:
    """Where what the answers of a task took is, as long as it is not finished and after that."""
    return out / "rows" / f"{quote(task, safe='')}.jsonl"


def write_task(
    out: Path,
    task: str,
    settings: EvalSettings,
    results: Mapping[str, Any],
    samples: Mapping[str, Any],
    rows: list[Row],
    seconds: float,
) -> None:
    """Write the file of a finished task, and join all of them.

    Args:
        results, samples: as lmms-eval returns them. rows: what the answers took.
        seconds: the task took.

    Raises:
        EvalError: an answer of lmms-eval's that there is no row for.
    """
    took = {(row["task"], row["doc_id"]): row for row in rows}
    joined = [_join(leaf, sample, took) for leaf, logged in samples.items() for sample in logged]
    leaves: dict[str, list[Row]] = {leaf: [row for row in joined if row["task"] == leaf] for leaf in samples}
    reported = json_value({name: results[name] for name in COPIED if name in results})
    content = {
        "schema": SCHEMA,
        "task": task,
        "settings": json.loads(settings.text),
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": _machine(),
        "reported": reported,
        "efficiency": {
            name: efficiency(leaves.get(name) or joined) for name in reported["results"]
        },  # of a group: all its answers
        "notes": notes(joined),
        "seconds": seconds,
        "samples": joined,
    }
    file = file_of(out, task)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda beside: beside.write_text(json.dumps(content) + "\n"))
    join_results(out)


def join_results(out: Path) -> None:
    """Write ``eval.json`` from the files of the finished tasks."""
    tasks = {content["task"]: content for content in _stored(out)}
    content = {"schema": SCHEMA, "settings": read_settings(out), "tasks": tasks}
    replace_file(out / JOINED, lambda beside: beside.write_text(json.dumps(content) + "\n"))


def finished(out: Path, task: str) -> bool:
    """Whether a task has its results.

    Raises:
        EvalError: they are damaged, or of other settings.
    """
    file = file_of(out, task)
    return file.is_file() and bool(_load(file, read_settings(out)))


def read_eval(folder: str | Path) -> list[EvalRow]:
    """The rows for a table out of the ``--out`` folder of ``framefold eval``, task by task as they were finished.

    Raises:
        EvalError: no results there, or damaged ones.
    """
    out = Path(folder)
    rows = [row for content in _stored(out) for row in _rows(content)]
    if not rows:
        raise EvalError(f"no finished task in {out}: run 'framefold eval --out {out}' again")
    return rows


def _rows(content: Mapping[str, Any]) -> Iterator[EvalRow]:
    settings, reported = content["settings"], content["reported"]
    for task, values in reported["results"].items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or "_stderr" in metric or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            errors = (
                values.get(f"{metric}{kind},{filtered}") for kind in ("_stderr_clustered", "_stderr", "_stderr_clt")
            )
            stderr = next((error for error in errors if isinstance(error, int | float)), None)
            higher = (reported.get("higher_is_better", {}).get(task) or {}).get(metric)
            better = "" if higher is None else "higher" if higher else "lower"
            took = content["efficiency"][task]
            yield EvalRow(
                settings["row"],
                settings["budget"],
                settings["host"],
                task,
                metric,
                value,
                stderr,
                better,
                took["n"],
                took,
            )


def _stored(out: Path) -> list[dict[str, Any]]:
    """The finished tasks, in the order in which they were finished."""
    settings = read_settings(out)
    files = sorted((out / FOLDER).glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return [_load(file, settings) for file in files]


def _load(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, not {SCHEMA}")
        list(_rows(content))
        other = difference(settings, content["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{file} is damaged ({error!r}): delete it and run 'framefold eval' again") from error
    if other is not None:
        raise EvalError(f"{file} has another {other} than the settings.json above it: it belongs into another folder")
    return content


def _join(leaf: str, sample: Mapping[str, Any], took: Mapping[tuple[str, Any], Row]) -> Row:
    row = took.get((leaf, sample["doc_id"]))
    if row is None:
        raise EvalError(f"lmms-eval has an answer to document {sample['doc_id']} of {leaf} that nobody was asked for")
    answers = sample["filtered_resps"]
    answer = answers[0] if isinstance(answers, list) and len(answers) == 1 else answers
    metrics = {name: value for name, value in sample.items() if name not in NO_METRIC}
    shown = {name: value for name, value in row.items() if name not in ("key", "text")}
    return json_value({**shown, "target": sample["target"], "answer": answer, "metrics": metrics})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    python = platform.python_version()
    return {"processor": platform.machine(), "gpu": gpu, "python": python, "threads": torch.get_num_threads()}
