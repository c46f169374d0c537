"""The model ``framefold`` of lmms-eval: any host with any compressor, for tasks that ask about one video.

lmms-eval finds it through the entry point group ``lmms_eval.models``; this module can be imported only where it is.
``framefold eval`` runs it, and so does lmms-eval by itself, where torchvision is installed::

    python -m lmms_eval --model framefold --model_args host=DIR_OR_ID,compressor=st_simdiff,budget=0.1 --tasks videomme
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm

from framefold.errors import ConfigError, EvalError, FramefoldError
from framefold.training.frozen_host.torchvision import find_torchvision

from .answer_log import RowFile, key_of
from .settings import settings_of

NAME = "framefold"


def manifest() -> ModelManifest:
    """What lmms-eval reads from the entry point."""
    return ModelManifest(NAME, simple_class_path=f"{__name__}.{Framefold.__name__}")


class Framefold(lmms):
    """A host with a compressor attached; answers greedily, one question at a time, and notes what each took.

    Args:
        job: file of ``framefold eval`` with ``{"settings": {...}, "rows": FILE, "progress": FILE}``.
        options: without it, fields of :class:`~framefold.evaluation.lmms.settings.EvalSettings`.

    Raises:
        ConfigError: an unknown option, or a batch size other than 1. The errors of ``framefold answer``.
    """

    is_simple = True  # lmms-eval: a task's prompt is text, the host's own chat template goes around it

    def __init__(
        self,
        job: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if str(batch_size) != "1" or max_batch_size not in (None, 1):
            raise ConfigError(f"the batch size must be 1, not {batch_size}: every answer is timed by itself")
        given: dict[str, Any] = {"settings": {**options, "device": device}}
        given = json.loads(Path(job).read_text()) if job else given
        settings = settings_of(given["settings"])
        find_torchvision()
        from .session import open_session

        self.session = open_session(settings.text)
        self.log = RowFile(Path(given["rows"]) if "rows" in given else None)
        self.progress = Path(given["progress"]) if "progress" in given else None

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers to questions about one video each."""
        answers = []
        for number, request in enumerate(tqdm(requests, desc="answers", disable=self.progress is not None)):
            self._say(request.args[4], number, len(requests))
            answers.append(self._answer(*request.args))
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise EvalError(
            f"{_task(requests)} compares likelihoods of given answers; framefold eval runs tasks that generate"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered."""
        raise EvalError(f"{_task(requests)} asks in several rounds; framefold eval runs tasks of one question each")

    def _answer(
        self, question: str, wanted: dict[str, Any], doc_to_visual: Callable[..., Any], doc: int, task: str, split: str
    ) -> str:
        new = int(wanted.get("max_new_tokens") or self.session.settings.max_new_tokens)
        try:
            video = _video(doc_to_visual(self.task_dict[task][split][doc]))
            key = key_of(task, split, doc, video, question, new)
            if key not in self.log.rows:
                asked = asdict(self.session.answer(video, question, new))
                row = {"key": key, "task": task, "split": split, "doc_id": doc, "video": video}
                self.log.add({**row, **asked, "sampled": _sampled(wanted)})
        except FramefoldError as error:
            raise EvalError(f"document {doc} of {task}: {error}") from error
        return cut(self.log.rows[key]["text"], wanted.get("until"))

    def _say(self, task: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress.write_text(json.dumps({"task": task, "done": done, "total": total}))


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """What comes before the first of the words at which a task wants an answer to end."""
    for end in [until] if isinstance(until, str) else until or []:
        text = text.partition(end)[0] if end else text
    return text


def _video(visuals: Any) -> str:
    visuals = list(visuals) if isinstance(visuals, list | tuple) else [visuals]
    if len(visuals) != 1 or not isinstance(visuals[0], str | Path):
        kinds = ", ".join(sorted({type(visual).__name__ for visual in visuals})) or "nothing"
        raise EvalError(f"a question comes with one video file, this one with {len(visuals)} ({kinds})")
    return str(visuals[0])


def _sampled(wanted: dict[str, Any]) -> bool:
    return bool(wanted.get("do_sample")) or int(wanted.get("num_beams") or 1) > 1


def _task(requests: Sequence[Any]) -> str:
    return str(getattr(requests[0], "task_name", "the task")) if requests else "the task"
