"""How well question-blind statistics of tokens rank the evidence of a task on a host: ``framefold bench shortcuts``.

Where a statistic such as the length of a token ranks evidence far above chance, methods that follow it look good for a
reason that holds for this host and task only. This module must not import transformers before torchvision is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from framefold.adapters.base.build import build
from framefold.adapters.core.tokens import VideoTokens
from framefold.data.evidence import evidence_mask
from framefold.data.question import Question
from framefold.data.synthetic.difficulty import Difficulty, resolve_difficulty
from framefold.data.synthetic.generate import Video
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.timeline import EVIDENCE_KINDS
from framefold.errors import ConfigError
from framefold.evaluation.metrics.ranking import ranking_auc, recall_auc, top_recall
from framefold.evaluation.metrics.statistics import Interval, clustered_mean, mean_over_types
from framefold.evaluation.report.markdown import format_table
from framefold.files import write_json
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision

from .token_statistics import STATISTICS, pixel_tokens

if TYPE_CHECKING:
    from framefold.training.frozen_host.host import Host

PIXELS = "pixels"  # instead of a host: statistics of the pixels of each cell

SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)  # budgets at which compressors are run

TOP = 0.05  # share of the tokens in which evidence is counted

ATTENTION = "received attention"

EVENTS = ""  # type of the last question, a placeholder whose evidence is that of all flashes and movers


@dataclass(frozen=True)
class Ranked:
    """How one statistic ranks the evidence of one question.

    Attributes:
        statistic: name of the statistic or compressor.
        kind: type of the question, or EVENTS.
        cluster: the same for twins.
        auc: see :func:`~framefold.evaluation.metrics.ranking.ranking_auc`.
        recall: share of the evidence among the best TOP of the tokens.
    """

    statistic: str
    kind: str
    cluster: int
    auc: float
    recall: float


def bench_shortcuts(
    host: str = "checkpoints/tinyhost",
    difficulty: str | Difficulty = "hard",
    style: str = "normal",
    videos: int = 60,
    frames: int = 64,
    data_seed: int = 0,
    split: str = "test",
    compressors: list[str] = ["st_simdiff", "medoids", "evs", "vidcom2"],  # noqa: B006 (read only)
    attention: bool = True,
    device: str | None = None,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """Measure how well statistics that know nothing of the question rank the evidence among the tokens of a host.

    The AUC of a statistic is the chance that a token with evidence has a higher value than one without: 0.5 if the
    statistic says nothing, and far from it in either direction if it gives the evidence away. That of a compressor is
    the area under the evidence that it keeps over the share of the tokens that it keeps.

    Args:
        host: folder of the host, or its id on the Hub, if it has been downloaded; "pixels" for the pixels of each cell
            instead, which tells shortcuts of the task from those of a host.
        difficulty: easy, hard, crowded, or the fields of data.synthetic.difficulty.Difficulty.
        style: normal, held_out for other glyphs and textures, or natural for photographs as backgrounds.
        videos: number of synthetic videos.
        frames: length of each video.
        data_seed: seed of the videos.
        split: split of the videos: train, val or test.
        compressors: registered names of training-free methods that ignore the question.
        attention: also measure the attention that tokens received in the vision encoder.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
        out: output folder for shortcuts.json, and shortcuts.md for the card of the host.

    Returns:
        One dictionary per statistic: statistic, auc (value, low, high: mean over the question types, 95 % interval over
        pairs of twins), events (the same for all flashes and movers of a video together), recall (share of the evidence
        among the highest 5 % of the tokens), and types, the AUC of each question type.

    Raises:
        ConfigError, UnknownCompressorError: a setting is out of range, or a compressor reads the question.
        DataError: there are no such videos.
        HostError: there is no such host.
    """
    if videos < 1:
        raise ConfigError(f"videos must be positive, got {videos}")
    _check(compressors)
    recipe = Recipe((frames, frames), data_seed, split, difficulty, style)
    loaded = None if host == PIXELS else load_named_host(host, device)
    ranked: list[Ranked] = []
    for number in progress_bar(range(videos), "bench shortcuts", unit="video", leave=False):
        video = recipe.video(number)
        tokens, questions = _encode(loaded, recipe, video, attention)
        ranked += rank_evidence(tokens, questions, number // 2, compressors)
    rows = summarize(ranked)
    settings: dict[str, Any] = {"host": host, "difficulty": resolve_difficulty(difficulty).to_dict(), "style": style}
    settings |= {"videos": videos, "frames": frames, "seed": data_seed, "split": split}
    print(shortcut_table(rows))
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "shortcuts.json", {"settings": settings, "rows": rows})
        (Path(out) / "shortcuts.md").write_text(shortcut_table(rows) + "\n")
    return rows


def _check(compressors: Sequence[str]) -> None:
    for name in compressors:
        compressor = build(name)
        if compressor.trainable or compressor.query_aware or compressor.in_llm is not None:
            raise ConfigError(f"{name} is trained, reads the question or acts in the language model: leave it out")
        if not compressor.exact_budget or compressor.needs_attention:
            raise ConfigError(f"{name} keeps no exact budget or needs attention: leave it out")


def load_named_host(name: str, device: str | None) -> Host:
    """Load a host onto a device; torchvision is found before, if its processor needs it."""
    where, found = resolve_device(device), find_host(name)
    if not found.is_tinyhost:
        find_torchvision()
    from framefold.training.frozen_host.load import load_host

    host = load_host(found)
    host.model.to(where)
    return host


@torch.no_grad()
def _encode(
    host: Host | None, recipe: Recipe, video: Video, attention: bool
) -> tuple[VideoTokens, tuple[Question, ...]]:
    """Return the tokens of a video, and its questions with a last one about all its events; evidence is in its grid."""
    boxes = (box for event in video.events if event.kind in EVIDENCE_KINDS for box in event.boxes)
    questions = (*video.questions, Question(EVENTS, "what happened ?", "yes", (), tuple(boxes)))
    if host is None:
        return pixel_tokens(video.frames, resolve_difficulty(recipe.difficulty).lattice // 4), questions
    encoded = host.encode_sample(replace(recipe.to_sample(video), questions=questions), attention)
    received = None if encoded.attention is None else encoded.attention.float().cpu()
    return VideoTokens.from_grid(encoded.features.float().cpu(), attention=received), encoded.questions


@torch.no_grad()
def rank_evidence(
    video: VideoTokens, questions: Sequence[Question], cluster: int, compressors: Sequence[str]
) -> Iterator[Ranked]:
    """Yield how each statistic and each compressor ranks the evidence of each question that has some.

    Args:
        video: a dense video.
        questions: questions whose evidence is in steps of its grid.
        cluster: number of the pair of twins.
        compressors: registered names.
    """
    masks = [evidence_mask(question.evidence, video.grid).reshape(-1) for question in questions]
    some = [0 < mask.sum() < len(mask) for mask in masks]
    evidence = np.stack([mask for mask, used in zip(masks, some, strict=True) if used])
    kinds = [question.type for question, used in zip(questions, some, strict=True) if used]
    scores = {name: statistic(video) for name, statistic in STATISTICS.items()}
    if video.attention is not None:
        scores[ATTENTION] = video.attention
    for name, values in scores.items():
        numbers = values.double().numpy()
        columns = (kinds, ranking_auc(numbers, evidence), top_recall(numbers, evidence, TOP))
        yield from (Ranked(name, kind, cluster, *map(float, pair)) for kind, *pair in zip(*columns, strict=True))
    for name in compressors:
        recalls = np.stack([_kept_share(video, name, share, evidence) for share in SHARES])
        columns = (kinds, recall_auc(SHARES, recalls), recalls[SHARES.index(TOP)])
        yield from (Ranked(name, kind, cluster, *map(float, pair)) for kind, *pair in zip(*columns, strict=True))


def _kept_share(video: VideoTokens, name: str, share: float, evidence: np.ndarray) -> np.ndarray:
    """Return for each question the share of its evidence at which a compressor keeps a token."""
    kept = build(name, share).eval()(video).tokens.index.numpy()
    return evidence[:, kept].sum(axis=1) / evidence.sum(axis=1)


def summarize(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    """Return one row per statistic, see :func:`bench_shortcuts`."""
    rows = []
    for name in dict.fromkeys(one.statistic for one in ranked):
        asked = [one for one in ranked if one.statistic == name and one.kind != EVENTS]
        events = [one for one in ranked if one.statistic == name and one.kind == EVENTS]
        kinds = list(dict.fromkeys(one.kind for one in asked))
        types = {kind: float(np.mean([one.auc for one in asked if one.kind == kind])) for kind in kinds}
        groups = [one.kind for one in asked], [one.cluster for one in asked]
        recall = mean_over_types([one.recall for one in asked], *groups).value
        row = {"statistic": name, "auc": mean_over_types([one.auc for one in asked], *groups), "events": None}
        if events:
            row["events"] = clustered_mean([one.auc for one in events], [one.cluster for one in events])
        limits = {
            key: [value.value, value.low, value.high] for key, value in row.items() if isinstance(value, Interval)
        }
        rows.append(row | limits | {"recall": recall, "types": types})
    return rows


def shortcut_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    kinds = list(rows[0]["types"])
    head = ["statistic", "AUC", "events", "in top 5 %", *kinds]
    body = [
        [row["statistic"], _limits(row["auc"]), _limits(row["events"]), f"{row['recall']:.2f}"]
        + [f"{row['types'][kind]:.2f}" for kind in kinds]
        for row in rows
    ]
    return format_table(head, body)


def _limits(interval: Sequence[float] | None) -> str:
    return "" if interval is None else "{:.2f} [{:.2f}, {:.2f}]".format(*interval)
