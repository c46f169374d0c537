"""Results of ``framefold eval`` on disk: one JSON file per task, joined into ``eval.json``, and how to read them.

Metrics are stored as lmms-eval reports them, together with the measured costs of the answers.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from framefold.errors import EvalError
from framefold.files import write_json

from .answer_log import LoggedAnswer, efficiency, notes
from .manifest import task_manifest
from .settings import EvalSettings, difference, json_value, read_settings

SCHEMA = 1

JOINED, FOLDER = "eval.json", "tasks"

# Fields of a sample logged by lmms-eval that are not values of metrics.
NO_METRIC = {"doc_id", "doc", "target", "arguments", "input", "input_media", "resps", "filtered_resps", "token_counts"}

NO_METRIC |= {"doc_hash"}

NOT_KEPT = {"key", "text", "prompt_text"}  # of a logged answer

COPIED = ("results", "n-samples", "versions", "higher_is_better", "group_subtasks", "task_hashes")


@dataclass(frozen=True)
class TaskMetric:
    """One metric of one task by one compressor, with the costs of its answers.

    Attributes:
        compressor: name of the compressor, followed by " (LoRA)" if the host had its LoRA.
        budget: share or number of tokens.
        host: folder or Hub id.
        task: task of lmms-eval, a subtask or a group of tasks.
        metric: name of the metric.
        value: value that lmms-eval reports.
        stderr: standard error that lmms-eval reports, clustered (for example by video) if available.
        better: "higher", "lower", or "" if the task does not define it.
        n: number of answers.
        frames: frames sampled from each video.
        limit: number of questions that the task was limited to; None for all.
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
    frames: int
    limit: int | None
    efficiency: dict[str, Any]


def file_of(out: Path, task: str) -> Path:
    """Path of the results of a task."""
    return out / FOLDER / f"{quote(task, safe='')}.json"


def answer_log_file(out: Path, task: str) -> Path:
    """Path of the answer log of a task, which is kept after the task is finished."""
    return out / "rows" / f"{quote(task, safe='')}.jsonl"


def write_task(
    out: Path,
    task: str,
    settings: EvalSettings,
    results: Mapping[str, Any],
    samples: Mapping[str, Any],
    answers: list[LoggedAnswer],
    seconds: float,
) -> None:
    """Write the file of a finished task and join all finished tasks.

    Args:
        out: output folder.
        task: name of the task.
        settings: settings of the evaluation.
        results: results that lmms-eval returned.
        samples: samples that lmms-eval returned.
        answers: logged answers of the task.
        seconds: duration of the task.

    Raises:
        EvalError: lmms-eval returned an answer that is not in the log.
    """
    logged = {(answer["task"], answer["doc_id"]): answer for answer in answers}
    joined = [_join(leaf, sample, logged) for leaf, entries in samples.items() for sample in entries]
    by_leaf = {leaf: [answer for answer in joined if answer["task"] == leaf] for leaf in samples}
    reported = json_value({name: results[name] for name in COPIED if name in results})
    # A group of tasks gets the efficiency of all its answers.
    costs = {name: efficiency(by_leaf.get(name) or joined) for name in reported["results"]}
    content = {
        "schema": SCHEMA,
        "task": task,
        "settings": json.loads(settings.text),
        "manifest": task_manifest(task, settings, results, answers),
        "machine": _machine(),
        "reported": reported,
        "efficiency": costs,
        "notes": notes(joined),
        "seconds": seconds,
        "samples": joined,
    }
    file = file_of(out, task)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, content, indent=None)
    join_results(out)


def join_results(out: Path) -> None:
    """Write ``eval.json`` from the files of the finished tasks."""
    tasks = {content["task"]: content for content in _stored(out)}
    write_json(out / JOINED, {"schema": SCHEMA, "settings": read_settings(out), "tasks": tasks}, indent=None)


def finished(out: Path, task: str) -> bool:
    """Whether a task is finished.

    Raises:
        EvalError: its results are damaged or have other settings.
    """
    file = file_of(out, task)
    return file.is_file() and bool(_load(file, read_settings(out)))


def read_eval(folder: str | Path) -> list[TaskMetric]:
    """Read the metrics from the ``--out`` folder of ``framefold eval``, in the order in which tasks were finished.

    Raises:
        EvalError: there are no results, or damaged ones.
    """
    out = Path(folder)
    metrics = [metric for content in _stored(out) for metric in _metrics(content)]
    if not metrics:
        raise EvalError(f"no finished task in {out}: run 'framefold eval --out {out}' again")
    return metrics


def _metrics(content: Mapping[str, Any]) -> Iterator[TaskMetric]:
    settings, reported = content["settings"], content["reported"]
    for task, values in reported["results"].items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or "_stderr" in metric or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            errors = (
                values.get(f"{metric}{kind},{filtered}") for kind in ("_stderr_clustered", "_stderr", "_stderr_clt")
            )
            higher = (reported.get("higher_is_better", {}).get(task) or {}).get(metric)
            yield TaskMetric(
                compressor=settings["row"],
                budget=settings["budget"],
                host=settings["host"],
                task=task,
                metric=metric,
                value=value,
                stderr=next((error for error in errors if isinstance(error, int | float)), None),
                better="" if higher is None else "higher" if higher else "lower",
                n=content["efficiency"][task]["n"],
                frames=settings["frames"],
                limit=settings["limit"],
                efficiency=content["efficiency"][task],
            )


def _stored(out: Path) -> list[dict[str, Any]]:
    """Load the finished tasks in the order in which they were finished."""
    settings = read_settings(out)
    files = sorted((out / FOLDER).glob("*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    return [_load(file, settings) for file in files]


def _load(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, not {SCHEMA}")
        list(_metrics(content))
        other = difference(settings, content["settings"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{file} is damaged ({error!r}): delete it and run 'framefold eval' again") from error
    if other is not None:
        raise EvalError(
            f"{file} has another value of {other} than the settings.json above it: move it to the folder that it is of"
        )
    return content


def _join(leaf: str, sample: Mapping[str, Any], logged: Mapping[tuple[str, Any], LoggedAnswer]) -> dict[str, Any]:
    answer = logged.get((leaf, sample["doc_id"]))
    if answer is None:
        raise EvalError(f"lmms-eval returned an answer to document {sample['doc_id']} of {leaf}, but the log has none")
    responses = sample["filtered_resps"]
    response = responses[0] if isinstance(responses, list) and len(responses) == 1 else responses
    metrics = {name: value for name, value in sample.items() if name not in NO_METRIC}
    measured = {name: value for name, value in answer.items() if name not in NOT_KEPT}
    return json_value({**measured, "target": sample["target"], "answer": response, "metrics": metrics})


def _machine() -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    python = platform.python_version()
    return {"processor": platform.machine(), "gpu": gpu, "python": python, "threads": torch.get_num_threads()}
