"""Log of answers with their costs: one line of JSON per answer, written at once, so that a killed run can resume."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framefold.files import replace_file, text_digest

LoggedAnswer = dict[str, Any]


class AnswerLog:
    """Answers by key, on disk or, without a file, in memory only.

    Attributes:
        answers: the answers so far, by key.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        known = read_answer_log(file) if file is not None else []
        self.answers: dict[str, LoggedAnswer] = {answer["key"]: answer for answer in known}
        if file is None:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps(answer) + "\n" for answer in self.answers.values())
        replace_file(file, lambda temporary: temporary.write_text(lines))  # removes a line that a kill truncated

    def add(self, answer: LoggedAnswer) -> None:
        """Append an answer."""
        self.answers[answer["key"]] = answer
        if self.file is not None:
            with self.file.open("a") as lines:
                lines.write(json.dumps(answer) + "\n")


def read_answer_log(file: Path) -> list[LoggedAnswer]:
    """Read a log; a missing file is an empty log, and truncated lines are skipped."""
    answers = []
    for line in file.read_text().splitlines() if file.is_file() else []:
        try:
            answer = json.loads(line)
        except ValueError:
            continue
        if isinstance(answer, dict) and isinstance(answer.get("key"), str):
            answers.append(answer)
    return answers


def answer_key(*parts: Any) -> str:
    """Return the key of an answer, which depends on all parts, such as document, video and question."""
    return text_digest(json.dumps(parts, sort_keys=True))[:32]


def efficiency(answers: Sequence[LoggedAnswer]) -> dict[str, Any]:
    """Summarise the costs of answers: medians of times, means of token counts, the largest memory.

    Returns:
        ``{"n": 0}`` for no answers. Otherwise ``visual_before``, ``visual_after``, ``visual_mean`` (over the layers of
        the language model), ``prompt`` and ``new_tokens`` are means; ``retention`` is the share of all visual tokens
        that was kept, as the mean over the layers; ``prefill_ms``, ``compressor_ms`` and
        ``decode_ms`` (per further token; None if no answer has one) are medians; ``memory_mib`` is the maximum.
    """
    if not answers:
        return {"n": 0}

    def mean(name: str) -> float:
        return statistics.fmean(answer[name] for answer in answers)

    def milliseconds(name: str) -> float | None:
        values = [1000 * answer[name] for answer in answers if answer[name] is not None]
        return statistics.median(values) if values else None

    before, inside = sum(answer["visual_before"] for answer in answers), [_inside(answer) for answer in answers]
    return {
        "n": len(answers),
        **{name: mean(name) for name in ("visual_before", "visual_after", "prompt", "new_tokens")},
        "visual_mean": statistics.fmean(inside),
        "retention": sum(inside) / before,
        "prefill_ms": milliseconds("prefill"),
        "compressor_ms": milliseconds("compressor"),
        "decode_ms": milliseconds("decode"),
        "memory_mib": max(answer["memory"] for answer in answers) / 2**20,
    }


def _inside(answer: LoggedAnswer) -> float:
    """Return the mean number of visual tokens over the layers; logs of earlier versions only have those that enter."""
    return answer["visual_mean"] if "visual_mean" in answer else answer["visual_after"]


def notes(answers: Sequence[LoggedAnswer]) -> list[str]:
    """Return warnings that readers of the results need."""
    over, sampled = (sum(bool(answer[name]) for answer in answers) for name in ("over_context", "sampled"))
    warnings = []
    if over:
        warnings.append(
            f"{over} of {len(answers)} full prompts are longer than the host's context: use fewer --frames, or "
            "--positions compact"
        )
    if sampled:
        warnings.append(f"the task asks for sampling or beam search ({sampled} times), but all answers are greedy")
    return warnings
