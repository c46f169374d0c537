"""Accuracy on the benchmarks of lmms-eval, and what the answers took: the verb ``framefold eval``."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress, TaskID

from framefold.adapters.base.build import load_or_build
from framefold.adapters.core.budget import Budget
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.errors import ConfigError, EvalError
from framefold.training.frozen_host.device import device_of

from .process import find_lmms_eval, supervise
from .results import JOINED, file_of, finished, join_results, read_eval
from .settings import EvalSettings, claim, resolve_settings
from .table import text_table

LOG = "lmms-eval.log"

NOTHING_LEFT: dict[str, Any] = {"done": True, "error": None, "usage": False, "failed": {}}


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
) -> int:
    """Run tasks of lmms-eval on fewer visual tokens; finished tasks, and answers of unfinished ones, are kept.

    lmms-eval asks and scores, in a process of its own; the answers are greedy, one question at a time, and what each
    took is measured. Run it once for each compressor and budget, into folders of their own; ``identity`` keeps all
    tokens.

    Args:
        host: folder or Hub id of a video-LLM of a supported family, with its processor.
        compressor: registered name, or an adapter: a folder, or user/name or user/name@revision on the Hub; LoRA in it
            is put into the host.
        tasks: names in lmms-eval, such as videomme, mlvu_dev, longvideobench_val_v, egoschema_subset.
        out: folder for eval.json, and the files of each task.
        budget: share of the visual tokens to keep (0.1), or their number (100); by default the compressor's own.
        params: parameters of a registered compressor other than their defaults.
        frames: number of frames to take of each video, evenly over its duration.
        limit: questions of each task, from the first; to try things out.
        include_path: folder with tasks of your own, in YAML as lmms-eval reads them.
        max_new_tokens: longest answer, where a task does not say.
        positions: "preserve" leaves tokens their positions in the full prompt, "compact" counts the shorter one anew.
        device: cpu or cuda (cuda:1 ...); by default cuda where there is one.
        dtype: of the weights; "auto" is what the host was saved in.
        allow_other_host: take an adapter that was trained in another host.

    Returns:
        Exit status: 0, or 1 if a task failed, which stderr tells; the others are finished.

    Raises:
        MissingExtraError: lmms-eval, torchvision or Pillow; the message installs it.
        UnknownCompressorError, BudgetError, AdapterFileError, HubError, ConfigError: the compressor, a setting, or a
            folder that holds results of other settings.
        HostError, UnsupportedHostError: no host that can be used. EvalError: no such task, or damaged results.
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
        raise ConfigError("there is no task to run: --tasks videomme,mlvu_dev")
    source = resolve_adapter(compressor)
    plugged, where = load_or_build(source, budget, params), device_of(device)
    beside, folder = find_lmms_eval(), Path(out)
    asked = EvalSettings(
        host, compressor, frames=frames, positions=positions, max_new_tokens=max_new_tokens, dtype=dtype,
        device=str(where), limit=limit, allow_other_host=allow_other_host,
    )  # fmt: skip
    settings = resolve_settings(asked, plugged, source, include_path)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            claim(folder, settings)
            left = [name for name in names if not finished(folder, name)]
            outcome = _run(settings, left, folder, beside, include_path) if left else NOTHING_LEFT
            return _report(folder, names, outcome)
    except Timeout as error:
        raise EvalError(f"another framefold eval is at work in {out}") from error


def _run(settings: EvalSettings, names: list[str], out: Path, beside: Path | None, include_path: str | None) -> Any:
    """Start lmms-eval's process, follow it, and return how it ended."""
    with tempfile.TemporaryDirectory() as scratch:
        job, outcome, progress = (Path(scratch) / f"{name}.json" for name in ("job", "outcome", "progress"))
        content = {
            "settings": asdict(settings),
            "tasks": names,
            "out": str(out),
            "beside": None if beside is None else str(beside),
            "path": [entry for entry in sys.path if entry],
            "include_path": include_path,
            "outcome": str(outcome),
            "progress": str(progress),
        }
        job.write_text(json.dumps(content))
        with Progress(console=Console(stderr=True), transient=True) as bar:
            follow = _Follower(bar, progress)
            status = supervise(job, out / LOG, follow)
            follow()
        ended = json.loads(outcome.read_text()) if outcome.is_file() else {**NOTHING_LEFT, "done": False}
    if not ended["done"]:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        ended["error"] = f"lmms-eval {how}{f' in {follow.task}' if follow.task else ''}; run it again to go on"
    return ended


class _Follower:
    """Moves a progress bar to where the process says that it is."""

    def __init__(self, bar: Progress, file: Path) -> None:
        self.bar, self.file, self.task = bar, file, ""
        self.line: TaskID = bar.add_task("starting lmms-eval", total=None)

    def __call__(self) -> None:
        try:
            said = json.loads(self.file.read_text())
        except (OSError, ValueError):  # not there yet, or being written
            return
        self.task = said["task"]
        self.bar.update(self.line, description=self.task, total=said.get("total"), completed=said.get("done", 0))


def _report(out: Path, names: list[str], outcome: dict[str, Any]) -> int:
    """Print a table of what is finished, and what failed."""
    if outcome["usage"]:
        raise EvalError(outcome["error"])
    if any(file_of(out, name).is_file() for name in names):
        join_results(out)
        print(f"{text_table(read_eval(out))}\n\nresults: {out / JOINED}")
    errors = [f"{task}: {text}" for task, text in outcome["failed"].items()]
    errors += [] if outcome["error"] is None else [outcome["error"]]
    for error in errors:
        print(f"framefold: error: {error} ({out / LOG} says more)", file=sys.stderr)
    return 1 if errors else 0
