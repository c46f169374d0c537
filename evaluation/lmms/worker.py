"""The program of lmms-eval's process: it runs one task after another and passes errors on to the user.

``python -m framefold.evaluation.lmms.worker JOB``, where ``framefold eval`` wrote the job file.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from framefold.errors import EvalError, FramefoldError, MissingExtraError
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.files import write_json
from framefold.training.frozen_host.torchvision import find_torchvision

from .answer_log import read_answer_log
from .process import follow_parent
from .results import answer_log_file, write_task
from .settings import EvalSettings, settings_of


def main(file: str) -> None:
    """Run a job and write its outcome to a file.

    The outcome is ``{"done": whether the job has ended, "error": text or None, "usage": whether the call was wrong,
    "failed": {task: text}}``.
    """
    job = json.loads(Path(file).read_text())
    follow_parent()
    outcome: dict[str, Any] = {"done": False, "error": None, "usage": False, "failed": {}}
    try:
        for task, text in run_job(job):
            outcome["failed"][task] = text
            _write_outcome(job, outcome)  # a later task may kill this process
    except FramefoldError as error:
        outcome |= {"error": _text(error), "usage": True}
    except Exception as error:
        traceback.print_exc()
        outcome["error"] = _text(error)
    _write_outcome(job, outcome | {"done": True})


def run_job(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Evaluate the tasks of a job.

    Yields:
        Name and error of each task that failed.

    Raises:
        EvalError: there is no such task.
        The errors of ``framefold answer`` that concern host and compressor.
    """
    settings = settings_of(job["settings"])
    find_torchvision()
    from .session import open_session

    _prepare_imports(job)
    _check_tasks(job["tasks"], job["include_path"])
    open_session(settings.text)  # raises errors of host and compressor once, not for each task; all tasks reuse it
    for task in job["tasks"]:
        write_json(Path(job["progress"]), {"task": task}, indent=None)
        try:
            _evaluate_task(job, task, settings)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            yield task, _text(error)


def _prepare_imports(job: dict[str, Any]) -> None:
    """Append lmms-eval to the import path, where it hides no other package, and register our model."""
    folder = [job["lmms_eval"]] if job["lmms_eval"] else []
    sys.path += [path for path in [*job["path"], *folder] if path not in sys.path]
    from huggingface_hub.constants import HF_HOME

    os.environ.setdefault("HF_HOME", HF_HOME)  # some tasks read it
    try:
        import lmms_eval.__main__  # noqa: F401 (missing packages are noticed here, before any task)
        from lmms_eval.models import MODEL_REGISTRY_V2

        from .model import manifest
    except ModuleNotFoundError as error:
        advice = "make lmms installs everything it needs" if job["lmms_eval"] else "pip install it"
        raise MissingExtraError(f"lmms-eval needs {error.name}, which is not installed: {advice}") from error
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)  # works without an installed entry point
    _hide_token()


def _hide_token() -> None:
    """Remove the Hub token from lmms-eval's log, which contains all its arguments."""
    from loguru import logger

    token = os.environ.get("HF_TOKEN")

    def hide(record: Any) -> None:
        if token:
            record["message"] = record["message"].replace(token, "***")

    logger.remove()
    logger.configure(patcher=hide)
    logger.add(sys.stdout, level="INFO")


def _check_tasks(names: list[str], include_path: str | None) -> None:
    from lmms_eval.tasks import TaskManager

    known = TaskManager("WARNING", include_path=include_path, model_name="framefold").all_tasks
    for name in names:
        if name not in known:
            raise EvalError(f"lmms-eval has no task {name!r}{_near(name, known)}")


def _near(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = [other for other in known if other.startswith(name)] if name else []
    close = close or difflib.get_close_matches(name, known, n=5, cutoff=0.6)
    if not close:
        return f"; it knows {len(known)} others, including those of --include_path"
    return f"; did you mean {', '.join(close[:8])}?"


def _evaluate_task(job: dict[str, Any], task: str, settings: EvalSettings) -> None:
    from lmms_eval.__main__ import cli_evaluate_single, parse_eval_args

    out = Path(job["out"])
    log = answer_log_file(out, task)
    with Stopwatch() as watch, tempfile.TemporaryDirectory() as folder:
        model_job, output = Path(folder) / "job.json", Path(folder) / "out"
        content = {"settings": json.loads(settings.text), "rows": str(log), "progress": job["progress"]}
        write_json(model_job, content)
        (out / "lmms-eval").mkdir(exist_ok=True)
        output.symlink_to((out / "lmms-eval").absolute())  # lmms-eval splits its arguments at commas
        sys.argv = ["lmms_eval", *_arguments(model_job, output, task, settings.limit, job["include_path"])]
        results, samples = cli_evaluate_single(parse_eval_args()[1])
    write_task(out, task, settings, results, samples, read_answer_log(log), watch.seconds)


def _arguments(model_job: Path, output: Path, task: str, limit: int | None, include_path: str | None) -> list[str]:
    words = ["--model", "framefold", "--model_args", f"job={model_job}", "--tasks", task, "--batch_size", "1"]
    words += ["--output_path", str(output), "--log_samples", "--timezone", "UTC"]
    words += [] if limit is None else ["--limit", str(limit)]
    return words if include_path is None else [*words, "--include_path", include_path]


def _write_outcome(job: dict[str, Any], outcome: dict[str, Any]) -> None:
    write_json(Path(job["outcome"]), outcome, indent=None)


def _text(error: BaseException) -> str:
    """Return one line for an error; for a repeated download, that of the last attempt."""
    attempt = getattr(error, "last_attempt", None)
    error = (attempt.exception() if attempt is not None else None) or error
    text = " ".join(str(error).split())
    return text if isinstance(error, FramefoldError) else f"{type(error).__name__}: {text}"[:500]


if __name__ == "__main__":
    main(sys.argv[1])
