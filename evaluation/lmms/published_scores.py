"""Scores of hosts with all tokens, as published, and how far ours are from them.

They are in ``published_scores.json``, each with its source and the settings that are printed there. Every score is
accuracy in percent, except that of Video-MME-v2, which scores groups of questions from 0 to 100.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from framefold.adapters.pretrained.base_model import hub_snapshot
from framefold.errors import ResultsError
from framefold.evaluation.results.settings import FULL

from .results import TaskMetric

PACKAGED = Path(__file__).with_suffix(".json")

LIMIT = 1.0  # points between our score with all tokens and the published one; a larger difference is a warning


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of lmms-eval for which scores of hosts are published.

    Attributes:
        task: name of the task.
        metric: metric that is compared.
        points: factor from the value of the metric to points.
    """

    task: str
    metric: str
    points: float


BENCHMARKS = {
    one.task: one
    for one in (
        Benchmark("videomme", "videomme_perception_score", 1),
        Benchmark("videomme_v2", "videomme_v2_overall_score", 1),
        Benchmark("mlvu_dev", "mlvu_percetion_score", 1),  # spelled so in lmms-eval
        Benchmark("longvideobench_val_v", "lvb_acc", 100),
        Benchmark("egoschema", "submission", 1),  # scored by the server of the benchmark
        Benchmark("lvbench", "lvbench_score", 100),
    )
}


@dataclass(frozen=True)
class PublishedScore:
    """A published score of a host with all tokens.

    Attributes:
        host: id on the Hub.
        task: task of lmms-eval.
        score: in points.
        frames: frames of each video, if printed.
        settings: what is printed about frames, pixels, subtitles and prompts.
        source: where the score was read.
    """

    host: str
    task: str
    score: float
    frames: int | None
    settings: str
    source: str


@dataclass(frozen=True)
class UnprunedCheck:
    """A published score next to ours with all tokens.

    Attributes:
        published: the published score.
        ours: our score in points; None if all tokens were not run on all questions.
        frames: frames of each video in our run.
    """

    published: PublishedScore
    ours: float | None
    frames: int

    @property
    def difference(self) -> float | None:
        """Our score minus the published one."""
        return None if self.ours is None else self.ours - self.published.score


def read_published_scores(file: str | Path | None = None) -> list[PublishedScore]:
    """Read published scores from a file; by default the packaged ones.

    Raises:
        ResultsError: there is no such file, or it is damaged.
    """
    path = PACKAGED if file is None else Path(file)
    try:
        return [_score(entry) for entry in json.loads(path.read_text())["scores"]]
    except FileNotFoundError as error:
        raise ResultsError(f"there is no file {path} with published scores") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} has no published scores ({type(error).__name__}: {error})") from error


def _score(entry: dict[str, Any]) -> PublishedScore:
    score = PublishedScore(**entry)
    if score.task not in BENCHMARKS:
        raise ValueError(f"{score.task} is none of {', '.join(BENCHMARKS)}")
    if isinstance(score.score, bool) or not 0 < score.score <= 100:
        raise ValueError(f"{score.host}, {score.task}: {score.score!r} is no score in points")
    return score


def host_key(host: str) -> str:
    """Return the name by which scores of a host are found: that of its repository, in small letters, without -hf."""
    name, _ = hub_snapshot(host) or (host, None)
    return name.partition("@")[0].rstrip("/").rpartition("/")[2].lower().removesuffix("-hf")


def unpruned_checks(metrics: Sequence[TaskMetric], scores: Sequence[PublishedScore]) -> list[UnprunedCheck]:
    """Compare our scores with all tokens to the published ones of the same host, benchmark by benchmark.

    Scores with the frames of our run replace those with other or unknown frames.

    Args:
        metrics: metrics of one or several evaluations, with or without one of all tokens.
        scores: published scores.
    """
    checks = []
    for host, frames, task in dict.fromkeys((one.host, one.frames, one.task) for one in metrics):
        ones = [score for score in scores if score.task == task and host_key(score.host) == host_key(host)]
        same = [score for score in ones if score.frames == frames]
        ours = _unpruned([one for one in metrics if (one.host, one.frames, one.task) == (host, frames, task)])
        checks += [UnprunedCheck(score, ours, frames) for score in same or ones]
    return checks


def _unpruned(metrics: Sequence[TaskMetric]) -> float | None:
    """Return the score of all tokens on all questions in points; None if it was not measured."""
    for one in metrics:
        benchmark = BENCHMARKS.get(one.task)
        if benchmark and one.compressor == FULL and one.metric == benchmark.metric and one.limit is None:
            return one.value * benchmark.points
    return None


def warnings_of(checks: Sequence[UnprunedCheck]) -> list[str]:
    """Return a sentence for every benchmark on which our score with all tokens is far from every published one."""
    texts = []
    for host, task, frames in dict.fromkeys((one.published.host, one.published.task, one.frames) for one in checks):
        ones = [one for one in checks if (one.published.host, one.published.task, one.frames) == (host, task, frames)]
        known = [(abs(one.difference), one) for one in ones if one.difference is not None]
        if not known:
            continue
        apart, nearest = min(known, key=lambda pair: pair[0])
        if apart > LIMIT:
            texts.append(
                f"WARNING: with all tokens and {frames} frames, {host} has {nearest.ours:.1f} on {task} here and"
                f" {nearest.published.score:.1f} as published, {apart:.1f} points apart: what follows on {task} cannot"
                " be compared with published results"
            )
    return texts
