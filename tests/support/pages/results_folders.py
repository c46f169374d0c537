"""Results folders for tests of the report and its page, written as ``framefold ablate`` would write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from framefold.data.question import Question
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.evaluation.results.left_out import LeftOut, write_left_out
from framefold.evaluation.results.result_files import REQUIRED_COSTS, Outcome, write_result
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, Settings

VIDEOS, KEPT_VIDEOS, FRAMES, GRID = 24, 6, 16, (16, 4, 4)
RECIPE = Recipe((FRAMES, FRAMES), 0, "test", "easy")
DATA = {"kind": "synthetic", "videos": VIDEOS, "frames": FRAMES, "seed": 0, "split": "test", "style": "normal"}
DATA |= {"difficulty": Difficulty().to_dict()}
BUDGETS = {0.25: 64, 0.1: 26}
# method -> probability of a right answer, number of seeds, whether it is trained
METHODS = {
    "oracle": (0.95, 1, False),
    "fila": (0.85, 2, True),
    "st_simdiff": (0.7, 1, False),
    "pool": (0.4, 1, False),
    "uniform": (0.3, 1, False),
}


def result_settings(method: str, budget: float, seed: int = 0, **changes: Any) -> Settings:
    """Return the settings of a result about the videos of ``RECIPE``."""
    settings = {"params": {}, "adapter": None, "host": "some/host", "host_weights": "ab", "dtype": "float32"}
    settings |= {"data": DATA, "exclude": ["background"]}
    return Settings(compressor=method, budget=budget, seed=seed, **settings | changes)


def random_outcome(method: str, right: float, tokens: int, seed: int = 0, kept_videos: int = KEPT_VIDEOS) -> Outcome:
    """Return random answers and random kept tokens: merged ones for pool, and one set per question for the oracle.

    Args:
        method: name of the method.
        right: probability of a right answer.
        tokens: number of kept tokens.
        seed: seed of the result.
        kept_videos: number of videos, from the first, whose kept tokens are recorded.
    """
    rng = np.random.default_rng([seed, *method.encode(), tokens])
    answers: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for video in range(VIDEOS):
        first = len(answers)
        for question in _questions(video):
            correct = bool(rng.random() < right)
            answer = {"video": video, "draw": video // 2, "type": question.type, "question": question.text}
            answer |= {"answer": question.answer, "said": question.answer if correct else "nonsense"}
            answer |= {"correct": correct, "tokens": tokens}
            answers.append(answer | {"recall": float(rng.random()), "purity": float(rng.random())})
        if video < kept_videos:
            rows = range(first, len(answers)) if method == "oracle" else [None]
            kept += [_random_kept(rng, video, row, tokens, method == "pool") for row in rows]
    cost = dict.fromkeys(REQUIRED_COSTS, 0.0) | {"memory_of": "tensors", "videos": 5}
    cost |= {"compressor_ms": 1 + rng.random(), "prefill_ms": tokens / 10, "speedup": 1 + 10 * rng.random()}
    cost |= {"tokens_entered": tokens + 1.0, "prefill_flops": 1e6 * tokens, "peak_bytes": 2000.0 * tokens}
    return Outcome(answers, cost, kept, kept_videos, "2026-01-01T00:00:00+00:00")


@cache
def _questions(video: int) -> tuple[Question, ...]:
    return RECIPE.video(video).questions


def _random_kept(rng: np.random.Generator, video: int, row: int | None, tokens: int, merged: bool) -> dict[str, Any]:
    index = np.sort(rng.choice(np.prod(GRID), tokens, replace=False)).tolist()
    size = rng.integers(1, 400, tokens).tolist() if merged else None
    return {"video": video, "key": f"test-0-{video:08d}", "row": row, "grid": list(GRID), "index": index, "size": size}


def fill_results(out: Path, kept_videos: int = KEPT_VIDEOS, **changes: Any) -> Path:
    """Write results of all methods at all budgets and of all tokens, and return the folder.

    Args:
        out: folder of the results.
        kept_videos: number of videos, from the first, whose kept tokens are recorded.
        changes: settings that differ from those of :func:`result_settings`.
    """
    full = random_outcome("identity", 0.9, 256, kept_videos=kept_videos)
    write_result(out, result_settings("identity", 1.0, **changes), full)
    for method, (right, seeds, trained) in METHODS.items():
        for budget, tokens in BUDGETS.items():
            for seed in range(seeds):
                adapter = {"adapter": f"{seed:064x}"} if trained else {}
                settings = result_settings(method, budget, seed, **adapter, **changes)
                write_result(out, settings, random_outcome(method, right, tokens, seed, kept_videos))
    return out


def edit_results(out: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Let a function change the content of every result file, and return the folder."""
    for file in (out / "cells").glob("*.json"):
        result = json.loads(file.read_text())
        edit(result)
        file.write_text(json.dumps(result))
    return out


def inside_results(out: Path) -> Path:
    """Write the results of :func:`fill_results`, and of methods inside the language model; return the folder.

    fastv has equal tokens and equal FLOPs at the larger budget, and the smaller one is not possible; pyramid_drop is
    not possible in this host.
    """
    fill_results(out)
    for name in ("fastv", f"fastv{EQUAL_FLOPS_SUFFIX}"):
        outcome = random_outcome(name, 0.6, 64)
        inside = {"tokens_entered": 257.0, "tokens_mean": 64.5, "tokens_after": 12.0, "recall_left": 0.25}
        inside |= {"equal_flops": 1e6, "equal_budget": 0.24} if name.endswith(EQUAL_FLOPS_SUFFIX) else {}
        write_result(out, result_settings(name, 0.25), replace(outcome, cost=outcome.cost | inside))
        left_out = LeftOut(name, 0.1, False, 26.0, 0.254, "a mean of 26 tokens is not possible")
        write_left_out(out, result_settings(name, 0.1), left_out)
    for budget, tokens in BUDGETS.items():
        refused = LeftOut("pyramid_drop", budget, False, tokens, None, "it acts in layers that this host lacks")
        write_left_out(out, result_settings("pyramid_drop", budget), refused)
    return out
