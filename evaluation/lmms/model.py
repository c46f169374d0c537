"""The model ``framefold`` of lmms-eval: any host with any compressor, for tasks that ask about one video.

lmms-eval finds it through the entry point group ``lmms_eval.models``; this module can be imported only if lmms-eval is
installed. ``framefold eval`` runs it, and so does lmms-eval itself, if torchvision is installed::

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

from framefold.errors import ConfigError, EvalError, FramefoldError
from framefold.files import text_digest, write_json
from framefold.progress import progress_bar
from framefold.training.frozen_host.torchvision import find_torchvision

from .answer_log import AnswerLog, answer_key
from .settings import settings_of

NAME = "framefold"


def manifest() -> ModelManifest:
    """Return the entry of lmms-eval's model registry; the target of the entry point."""
    return ModelManifest(NAME, simple_class_path=f"{__name__}.{Framefold.__name__}")


class Framefold(lmms):
    """A host with a compressor attached, which answers greedily, one question at a time, and measures every answer.

    Args:
        job: JSON file of ``framefold eval``: ``{"settings": {...}, "rows": FILE, "progress": FILE}``.
        batch_size: must be 1.
        max_batch_size: must be 1 or None.
        device: see :class:`~framefold.evaluation.lmms.settings.EvalSettings`.
        options: other fields of these settings, if there is no job.

    Raises:
        ConfigError: an option is unknown, or the batch size is not 1.
        The errors of ``framefold answer``.
    """

    is_simple = True  # lmms-eval: the prompt of a task is text, which the host's own chat template wraps

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
            raise ConfigError(f"the batch size must be 1, not {batch_size}: every answer is timed separately")
        given: dict[str, Any] = {"settings": {**options, "device": device}}
        given = json.loads(Path(job).read_text()) if job else given
        settings = settings_of(given["settings"])
        find_torchvision()
        from .session import open_session

        self.session = open_session(settings.text)
        self.log = AnswerLog(Path(given["rows"]) if "rows" in given else None)
        self.progress = Path(given["progress"]) if "progress" in given else None

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer questions about one video each."""
        answers = []
        shown = requests if self.progress is not None else progress_bar(requests, "answers", unit="answer")
        for number, request in enumerate(shown):
            self._report(request.args[4], number, len(requests))
            answers.append(self._answer(*request.args))
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Unsupported; raises EvalError."""
        raise EvalError(
            f"{_task(requests)} compares likelihoods of given answers; framefold eval runs tasks that generate answers"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Unsupported; raises EvalError."""
        raise EvalError(f"{_task(requests)} asks in several rounds; framefold eval runs tasks of single questions")

    def _answer(
        self, question: str, options: dict[str, Any], doc_to_visual: Callable[..., Any], doc: int, task: str, split: str
    ) -> str:
        new = int(options.get("max_new_tokens") or self.session.settings.max_new_tokens)
        try:
            video = _video(doc_to_visual(self.task_dict[task][split][doc]))
            key = answer_key(task, split, doc, video, question, new)
            if key not in self.log.answers:
                measured = asdict(self.session.answer(video, question, new))
                measured["prompt_digest"] = text_digest(measured["prompt_text"])
                if any(answer["task"] == task for answer in self.log.answers.values()):
                    del measured["prompt_text"]  # that of the first answer is enough
                identity = {"key": key, "task": task, "split": split, "doc_id": doc, "video": video}
                self.log.add({**identity, **measured, "sampled": _samples(options)})
        except FramefoldError as error:
            raise EvalError(f"document {doc} of {task}: {error}") from error
        return cut(self.log.answers[key]["text"], options.get("until"))

    def _report(self, task: str, done: int, total: int) -> None:
        if self.progress is not None:
            write_json(self.progress, {"task": task, "done": done, "total": total}, indent=None)


def cut(text: str, until: str | Sequence[str] | None) -> str:
    """Return the text before the first of the strings that end an answer."""
    for end in [until] if isinstance(until, str) else until or []:
        text = text.partition(end)[0] if end else text
    return text


def _video(visuals: Any) -> str:
    visuals = list(visuals) if isinstance(visuals, list | tuple) else [visuals]
    if len(visuals) != 1 or not isinstance(visuals[0], str | Path):
        kinds = ", ".join(sorted({type(visual).__name__ for visual in visuals})) or "nothing"
        raise EvalError(f"a question needs exactly one video file, this one has {len(visuals)} visuals ({kinds})")
    return str(visuals[0])


def _samples(options: dict[str, Any]) -> bool:
    """Whether a task asks for sampling or beam search."""
    return bool(options.get("do_sample")) or int(options.get("num_beams") or 1) > 1


def _task(requests: Sequence[Any]) -> str:
    return str(getattr(requests[0], "task_name", "the task")) if requests else "the task"
