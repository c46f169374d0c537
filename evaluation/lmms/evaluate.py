"""Accuracy and costs on the benchmarks of lmms-eval: the command ``framefold eval``."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from framefold.adapters.base.build import load_or_build
from framefold.adapters.base.untrained import warn_untrained
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.errors import ConfigError, EvalError
from framefold.evaluation.results.settings import FULL
from framefold.files import write_json
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import find_host
from framefold.warning_types import UnknownWordsWarning

from .process import find_lmms_eval, supervise
from .published_scores import PublishedScore, read_published_scores
from .results import JOINED, TaskMetric, file_of, finished, join_results, read_eval
from .settings import EvalSettings, claim, resolve_settings
from .table import text_table

LOG = "lmms-eval.log"

TINYHOST = (
    "{host} knows only framefold's synthetic videos and a few words: its answers to questions of other benchmarks mean"
    " nothing, see checkpoints/tinyhost/README.md"
)

COMPLETED: dict[str, Any] = {"done": True, "error": None, "usage": False, "failed": {}}


def evaluate(
    host: str,
    compressor: str,
    tasks: list[str],
    out: str = "runs/eval",
    budget: Budget | None = None,
    params: dict[str, Any] | None = None,
    frames: int = 64,
    limit: int | None = None,
    include_path: str | None = None,
    max_new_tokens: int = 64,
    positions: Literal["preserve", "compact"] = "preserve",
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    allow_other_host: bool = False,
    revision: str | None = None,
    unpruned: str | None = None,
    published: str | None = None,
) -> int:
    """Run tasks of lmms-eval on fewer visual tokens; finished tasks, and answers of unfinished ones, are reused.

    lmms-eval asks and scores in its own process. Answers are greedy, one question at a time, and the time and memory
    of each are measured. Use one output folder for each compressor and budget; ``identity`` keeps all tokens.

    Args:
        host: video-LLM of a supported family with its processor: a folder, or an id on the Hub that has been downloaded
            (hf download).
        compressor: registered name, or an adapter: a folder, or user/name or user/name@revision on the Hub. LoRA in
            the adapter is added to the host.
        tasks: task names of lmms-eval, such as videomme, videomme_v2, mlvu_dev, longvideobench_val_v, egoschema (which
            its own server scores), egoschema_subset, lvbench.
        out: output folder for eval.json and the files of each task.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the compressor's own.
        params: parameters of a registered compressor that differ from their defaults.
        frames: number of frames to sample from each video, evenly over its duration.
        limit: number of questions of each task, from the first, for a quick trial.
        include_path: folder of local tasks, in the YAML format of lmms-eval.
        max_new_tokens: largest length of an answer, unless the task sets one.
        positions: "preserve" keeps the positions that tokens have in the full prompt; "compact" renumbers them.
        device: cpu or cuda (cuda:1 ...); by default cuda if it is available.
        dtype: dtype of the weights; "auto" is bfloat16 on a GPU, and the one that they were saved in elsewhere.
        allow_other_host: accept an adapter that was trained in another host.
        revision: branch, tag or commit of a host on the Hub.
        unpruned: output folder of the same tasks with all tokens; tasks that are not finished there are run first. The
            score with all tokens is then shown next to the published one.
        published: JSON file of published scores of hosts with all tokens; by default the packaged one.

    Returns:
        Exit status: 0, or 1 if a task failed; stderr names the failed tasks, and the others are finished.

    Raises:
        MissingExtraError: lmms-eval, torchvision or Pillow is missing; the message contains the command that installs
            it.
        UnknownCompressorError, BudgetError, AdapterFileError, HubError, ConfigError: the compressor or a setting is
            invalid, or the folder holds results of other settings.
        HostError, UnsupportedHostError: the host cannot be used.
        EvalError: there is no such task, or results are damaged.
        ResultsError: the file of published scores is missing or damaged.
    """
    for name, value in (
        ("frames", frames),
        ("max_new_tokens", max_new_tokens),
        ("limit", 1 if limit is None else limit),
    ):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    names = list(dict.fromkeys(task.strip() for task in tasks if task.strip()))
    if not names:
        raise ConfigError("there is no task to run: give, for example, --tasks videomme,mlvu_dev")
    if unpruned is not None and Path(unpruned).resolve() == Path(out).resolve():
        raise ConfigError(f"--unpruned and --out are the same folder, {out}: give --unpruned one of its own")
    scores, source = read_published_scores(published), resolve_adapter(compressor)
    module, where = load_or_build(source, budget, params), resolve_device(device)
    found = find_host(host, revision)
    lmms_eval, folder = find_lmms_eval(), Path(out)
    given = EvalSettings(
        host, compressor, frames=frames, positions=positions, max_new_tokens=max_new_tokens, dtype=dtype,
        device=str(where), limit=limit, allow_other_host=allow_other_host, revision=revision,
    )  # fmt: skip
    settings = resolve_settings(given, module, source, include_path)
    if found.is_tinyhost:
        warnings.warn(TINYHOST.format(host=host), UnknownWordsWarning, stacklevel=2)
    warn_untrained(module)
    full = 0
    if unpruned is not None:
        full = evaluate(
            host, FULL, names, unpruned, frames=frames, limit=limit, include_path=include_path,
            max_new_tokens=max_new_tokens, device=device, dtype=dtype, revision=revision, published=published,
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            claim(folder, settings)
            left = [name for name in names if not finished(folder, name)]
            outcome = _run(settings, left, folder, lmms_eval, include_path) if left else COMPLETED
            return max(full, _report(folder, names, outcome, unpruned, scores))
    except Timeout as error:
        raise EvalError(f"another framefold eval is running in {out}") from error


def _run(settings: EvalSettings, names: list[str], out: Path, lmms_eval: Path | None, include_path: str | None) -> Any:
    """Run lmms-eval's process to its end and return the outcome that it wrote."""
    with tempfile.TemporaryDirectory() as scratch:
        job, outcome, progress = (Path(scratch) / f"{name}.json" for name in ("job", "outcome", "progress"))
        content = {
            "settings": asdict(settings),
            "tasks": names,
            "out": str(out),
            "lmms_eval": None if lmms_eval is None else str(lmms_eval),
            "path": [entry for entry in sys.path if entry],
            "include_path": include_path,
            "outcome": str(outcome),
            "progress": str(progress),
        }
        write_json(job, content)
        with _TaskProgress(progress) as follow:
            status = supervise(job, out / LOG, follow.update)
            follow.update()
        ended = json.loads(outcome.read_text()) if outcome.is_file() else {**COMPLETED, "done": False}
    if not ended["done"]:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        ended["error"] = f"lmms-eval {how}{f' in {follow.task}' if follow.task else ''}; run it again to resume"
    return ended


class _TaskProgress:
    """Progress bar of the task that lmms-eval's process runs, read from the file in which it reports.

    Attributes:
        task: name of that task; "" before the first.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.task = file, ""
        self.bar = progress_bar(what="starting lmms-eval", unit="answer", leave=False)

    def update(self) -> None:
        """Read the file and redraw the bar."""
        try:
            state = json.loads(self.file.read_text())
        except (OSError, ValueError):  # not written yet
            return
        if state["task"] != self.task:  # the rate starts anew with each task
            self.task = state["task"]
            self.bar.set_description(self.task, refresh=False)
            self.bar.reset(state.get("total"))
        self.bar.total = state.get("total")
        self.bar.update(state.get("done", 0) - self.bar.n)

    def __enter__(self) -> _TaskProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()


def _report(
    out: Path, names: list[str], outcome: dict[str, Any], unpruned: str | None, scores: list[PublishedScore]
) -> int:
    """Print a table of the finished tasks, and the errors of the others."""
    if outcome["usage"]:
        raise EvalError(outcome["error"])
    if any(file_of(out, name).is_file() for name in names):
        join_results(out)
        metrics, full = read_eval(out), _unpruned_metrics(unpruned, names)
        print(f"{text_table(metrics, full, scores)}\n\nresults: {out / JOINED}")
    errors = [f"{task}: {text}" for task, text in outcome["failed"].items()]
    errors += [] if outcome["error"] is None else [outcome["error"]]
    for error in errors:
        print(f"framefold: error: {error} (details in {out / LOG})", file=sys.stderr)
    return 1 if errors else 0


def _unpruned_metrics(folder: str | None, names: list[str]) -> list[TaskMetric]:
    """Read the metrics of all tokens; none if all their tasks failed."""
    if folder is None or not any(file_of(Path(folder), name).is_file() for name in names):
        return []
    return read_eval(folder)
