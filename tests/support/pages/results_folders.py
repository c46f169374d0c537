"""Results folders for tests of the report and its page: made by hand, as `framefold ablate` would write them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from framefold.data.question import Question
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.evaluation.results.result_files import REQUIRED_COSTS, Outcome, write_result
from framefold.evaluation.results.settings import Settings

VIDEOS, DRILL, FRAMES, GRID = 24, 6, 16, (16, 4, 4)
RECIPE = Recipe((FRAMES, FRAMES), 0, "test", "easy")
DATA = {"kind": "synthetic", "videos": VIDEOS, "frames": FRAMES, "seed": 0, "split": "test", "style": "normal"}
DATA |= {"difficulty": Difficulty().to_dict()}
BUDGETS = {0.25: 64, 0.1: 26}
# name -> how often it is right, seeds, whether it is trained
ROWS = {
    "oracle": (0.95, 1, False),
    "fila": (0.85, 2, True),
    "st_simdiff": (0.7, 1, False),
    "pool": (0.4, 1, False),
    "uniform": (0.3, 1, False),
}


def settings(name: str, budget: float, seed: int = 0, **more: Any) -> Settings:
    """Of a cell about these videos."""
    plain = {"params": {}, "adapter": None, "host": "some/host", "host_weights": "ab", "dtype": "float32"}
    plain |= {"data": DATA, "exclude": ["background"]}
    return Settings(compressor=name, budget=budget, seed=seed, **plain | more)


def outcome(name: str, right: float, tokens: int, seed: int = 0, drill: int = DRILL) -> Outcome:
    """Answers at random, and tokens kept at random: of pool merged, of the oracle for each question."""
    rng = np.random.default_rng([seed, *name.encode(), tokens])
    rows: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    for video in range(VIDEOS):
        first = len(rows)
        for question in _questions(video):
            good = bool(rng.random() < right)
            row = {"video": video, "draw": video // 2, "type": question.type, "question": question.text}
            row |= {"answer": question.answer, "said": question.answer if good else "nonsense", "correct": good}
            rows.append(row | {"tokens": tokens, "recall": float(rng.random()), "purity": float(rng.random())})
        if video < drill:
            places = range(first, len(rows)) if name == "oracle" else [None]
            kept += [_kept(rng, video, place, tokens, name == "pool") for place in places]
    cost = dict.fromkeys(REQUIRED_COSTS, 0.0) | {"memory_of": "tensors", "videos": 5}
    cost |= {"compressor_ms": 1 + rng.random(), "prefill_ms": tokens / 10, "speedup": 1 + 10 * rng.random()}
    cost |= {"tokens_entered": tokens + 1.0, "prefill_flops": 1e6 * tokens, "peak_bytes": 2000.0 * tokens}
    return Outcome(rows, cost, kept, drill, "2026-01-01T00:00:00+00:00")


@cache
def _questions(video: int) -> tuple[Question, ...]:
    return RECIPE.video(video).questions


def _kept(rng: np.random.Generator, video: int, row: int | None, tokens: int, merged: bool) -> dict[str, Any]:
    index = np.sort(rng.choice(np.prod(GRID), tokens, replace=False)).tolist()
    size = rng.integers(1, 400, tokens).tolist() if merged else None
    return {"video": video, "key": f"test-0-{video:08d}", "row": row, "grid": list(GRID), "index": index, "size": size}


def fill(out: Path, drill: int = DRILL, **more: Any) -> Path:
    """All rows at all budgets, and all tokens; returns the folder.

    Args:
        drill: of how many videos is noted what was kept. more: settings.
    """
    write_result(out, settings("identity", 1.0, **more), outcome("identity", 0.9, 256, drill=drill))
    for name, (right, seeds, trained) in ROWS.items():
        for budget, tokens in BUDGETS.items():
            for seed in range(seeds):
                own = {"adapter": f"{seed:064x}"} if trained else {}
                one = settings(name, budget, seed, **own, **more)
                write_result(out, one, outcome(name, right, tokens, seed, drill))
    return out


def change(out: Path, edit: Any) -> Path:
    """Let a function change every cell of a folder; returns the folder."""
    for file in (out / "cells").glob("*.json"):
        cell = json.loads(file.read_text())
        edit(cell)
        file.write_text(json.dumps(cell))
    return out
