"""What runs in the process of its own: lmms-eval, task by task, with errors that reach the user.

``python -m framefold.evaluation.lmms.worker JOB``; only ``framefold eval`` writes such files.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from framefold.errors import EvalError, FramefoldError, MissingExtraError
from framefold.files import replace_file
from framefold.training.frozen_host.torchvision import find_torchvision

from .answer_log import read_answer_log
from .process import follow_parent
from .results import answer_log_file, write_task
from .settings import EvalSettings, settings_of


def main(file: str) -> None:
    """Run a job and write how it ended to its ``outcome`` file.

    ``{"done": false as long as it goes on, "error": text or None, "usage": whether the call was wrong,
    "failed": {task: text}}``
    """
    job = json.loads(Path(file).read_text())
    follow_parent()
    outcome: dict[str, Any] = {"done": False, "error": None, "usage": False, "failed": {}}
    try:
        for task, text in run_job(job):
            outcome["failed"][task] = text
            _write(job, outcome)  # what follows may kill this process
    except FramefoldError as error:
        outcome |= {"error": _text(error), "usage": True}
    except Exception as error:
        traceback.print_exc()
        outcome["error"] = _text(error)
    _write(job, outcome | {"done": True})


def run_job(job: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Evaluate the tasks of a job.

    Yields:
        A task and what went wrong in it; the others are finished.

    Raises:
        EvalError: there is no such task. The errors of ``framefold answer``, of host and compressor.
    """
    settings = settings_of(job["settings"])
    find_torchvision()
    from .session import open_session

    _make_importable(job)
    _check_tasks(job["tasks"], job["include_path"])
    open_session(settings.text)  # what is wrong with it is not told task by task; each of them finds it open
    for task in job["tasks"]:
        _say(job, task=task)
        try:
            _evaluate(job, task, settings)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            yield task, _text(error)


def _make_importable(job: dict[str, Any]) -> None:
    """Put lmms-eval on the path, last, so that it hides nothing; with the entry point, even if installed without."""
    beside = [job["beside"]] if job["beside"] else []
    sys.path += [path for path in [*job["path"], *beside] if path not in sys.path]
    from huggingface_hub.constants import HF_HOME

    os.environ.setdefault("HF_HOME", HF_HOME)  # some tasks read it
    try:
        import lmms_eval.__main__  # noqa: F401 (what it imports is missed here, before any task)
        from lmms_eval.models import MODEL_REGISTRY_V2

        from .model import manifest
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"lmms-eval needs {error.name}, which is not installed: {_advice(job)}") from error
    MODEL_REGISTRY_V2.register_manifest(manifest(), overwrite=True)
    _keep_secrets()


def _keep_secrets() -> None:
    """Let lmms-eval's log, which shows all its arguments, not show the token of the Hub."""
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
        return f"; it knows {len(known)} others, and those of --include_path"
    return f"; did you mean {', '.join(close[:8])}?"


def _evaluate(job: dict[str, Any], task: str, settings: EvalSettings) -> None:
    from lmms_eval.__main__ import cli_evaluate_single, parse_eval_args

    out, start = Path(job["out"]), time.perf_counter()
    rows = answer_log_file(out, task)
    with tempfile.TemporaryDirectory() as folder:
        inner, theirs = Path(folder) / "job.json", Path(folder) / "out"
        content = {"settings": json.loads(settings.text), "rows": str(rows), "progress": job["progress"]}
        inner.write_text(json.dumps(content))
        (out / "lmms-eval").mkdir(exist_ok=True)
        theirs.symlink_to((out / "lmms-eval").absolute())  # lmms-eval cuts its arguments at commas
        sys.argv = ["lmms_eval", *_arguments(inner, theirs, task, settings.limit, job["include_path"])]
        results, samples = cli_evaluate_single(parse_eval_args()[1])
    write_task(out, task, settings, results, samples, read_answer_log(rows), time.perf_counter() - start)


def _arguments(inner: Path, theirs: Path, task: str, limit: int | None, include_path: str | None) -> list[str]:
    words = ["--model", "framefold", "--model_args", f"job={inner}", "--tasks", task, "--batch_size", "1"]
    words += ["--output_path", str(theirs), "--log_samples", "--timezone", "UTC"]
    words += [] if limit is None else ["--limit", str(limit)]
    return words if include_path is None else [*words, "--include_path", include_path]


def _write(job: dict[str, Any], outcome: dict[str, Any]) -> None:
    replace_file(Path(job["outcome"]), lambda beside: beside.write_text(json.dumps(outcome)))


def _say(job: dict[str, Any], **what: Any) -> None:
    Path(job["progress"]).write_text(json.dumps(what))


def _advice(job: dict[str, Any]) -> str:
    return "make lmms installs all that it needs" if job["beside"] else "pip install it"


def _text(error: BaseException) -> str:
    """One line for an error; the last one of a download that was tried several times."""
    attempt = getattr(error, "last_attempt", None)
    error = (attempt.exception() if attempt is not None else None) or error
    text = " ".join(str(error).split())
    return text if isinstance(error, FramefoldError) else f"{type(error).__name__}: {text}"[:500]


if __name__ == "__main__":
    main(sys.argv[1])
