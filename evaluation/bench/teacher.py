"""What a compressor can learn from the attention of each layer of a host: ``framefold bench teacher``.

This module must not import transformers before torchvision is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framefold.adapters.core.budget import check_budget
from framefold.data.synthetic.difficulty import Difficulty, resolve_difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.evaluation.metrics.statistics import mean_over_types
from framefold.evaluation.report.markdown import format_table
from framefold.files import write_json
from framefold.progress import progress_bar

from .shortcuts import load_named_host

if TYPE_CHECKING:
    from .teacher_layers import Taught


def bench_teacher(
    host: str = "checkpoints/tinyhost",
    difficulty: str | Difficulty = "hard",
    style: str = "normal",
    videos: int = 24,
    frames: int = 64,
    budgets: list[float | int] = [0.05],  # noqa: B006 (read only)
    data_seed: int = 0,
    split: str = "val",
    device: str | None = None,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """Measure what the attention of each layer of a host is worth as a teacher of a query-aware compressor.

    The host reads all tokens and each question; of the attention of one layer, the tokens that receive most are kept,
    and the host answers from these alone. No compressor that learns this attention can be expected to do better. Take
    the best row for --model.teacher of 'framefold fit'.

    Args:
        host: folder of the host, or its id on the Hub, if it has been downloaded.
        difficulty: easy, hard, crowded, or the fields of data.synthetic.difficulty.Difficulty.
        style: normal, held_out for other glyphs and textures, or natural for photographs as backgrounds.
        videos: number of synthetic videos.
        frames: length of each video.
        budgets: shares or numbers of tokens to keep.
        data_seed: seed of the videos.
        split: split of the videos: train, val or test; val, so that the choice of a layer has not seen the test videos.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
        out: output folder for teacher.json and teacher.md.

    Returns:
        One dictionary per teacher, and one for evenly spaced frames without a teacher: layers, heads, accuracy by
        budget (value, low, high: mean over the question types, 95 % interval over pairs of twins), and auc, how well
        the attention ranks the evidence.

    Raises:
        ConfigError, BudgetError: a setting is out of range.
        DataError: there are no such videos.
        HostError: there is no such host.
    """
    if videos < 1 or not budgets:
        raise ConfigError(f"videos must be positive, and budgets not empty, got {videos} and {budgets}")
    budgets = [check_budget(budget) for budget in budgets]
    recipe = Recipe((frames, frames), data_seed, split, difficulty, style)
    loaded = load_named_host(host, device)
    from .teacher_layers import answer_from_layers

    taught: list[Taught] = []
    for number in progress_bar(range(videos), "bench teacher", unit="video", leave=False):
        taught += answer_from_layers(loaded, recipe.sample(number), number // 2, budgets)
    rows = summarize_teachers(taught)
    settings: dict[str, Any] = {"host": host, "difficulty": resolve_difficulty(difficulty).to_dict(), "style": style}
    settings |= {"videos": videos, "frames": frames, "seed": data_seed, "split": split}
    print(teacher_table(rows))
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "teacher.json", {"settings": settings, "rows": rows})
        (Path(out) / "teacher.md").write_text(teacher_table(rows) + "\n")
    return rows


def summarize_teachers(taught: Sequence[Taught]) -> list[dict[str, Any]]:
    """Return one row per teacher, see :func:`bench_teacher`."""
    rows = []
    for layers, heads in dict.fromkeys((one.layers, one.heads) for one in taught):
        own = [one for one in taught if (one.layers, one.heads) == (layers, heads)]
        accuracy = {}
        for budget in dict.fromkeys(one.budget for one in own):
            at = [one for one in own if one.budget == budget]
            found = mean_over_types(
                [float(one.correct) for one in at], [one.kind for one in at], [one.cluster for one in at]
            )
            accuracy[f"{budget:g}"] = [found.value, found.low, found.high]
        ranked = [one for one in own if not np.isnan(one.auc)]
        auc = (
            mean_over_types(
                [one.auc for one in ranked], [one.kind for one in ranked], [one.cluster for one in ranked]
            ).value
            if ranked
            else None
        )
        rows.append({"layers": list(layers), "heads": heads, "accuracy": accuracy, "auc": auc})
    return rows


def teacher_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    budgets = list(rows[0]["accuracy"])
    head = ["layers", "heads", "AUC of evidence", *(f"accuracy at {budget}" for budget in budgets)]
    body = []
    for row in rows:
        name = ", ".join(map(str, row["layers"])) or "uniform"
        numbers = ("{:.1f} [{:.1f}, {:.1f}]".format(*(100 * n for n in row["accuracy"][budget])) for budget in budgets)
        body.append([name, row["heads"], "" if row["auc"] is None else f"{row['auc']:.2f}", *numbers])
    return format_table(head, body)
