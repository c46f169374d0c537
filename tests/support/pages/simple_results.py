"""Result files with random answers to two question types about 40 videos, for tests of files and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from framefold.evaluation.results.result_files import REQUIRED_COSTS, Outcome, write_result
from framefold.evaluation.results.settings import Settings

DATA = {"kind": "synthetic", "videos": 40, "frames": 64, "seed": 0, "split": "test"}
DATA |= {"difficulty": {}, "style": "normal"}
SETTINGS = Settings("uniform", {}, None, 0.1, 0, "host", "abc", "float32", DATA, [])
COST: dict[str, Any] = dict.fromkeys(REQUIRED_COSTS, 2.0) | {"compressor_ms": 1.0, "tokens_entered": 11.0}
COST |= {"videos": 5, "memory_of": "tensors"}


def simple_answers(accuracy: float, tokens: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return the records of 80 answers, each right with a probability."""
    rng = np.random.default_rng(seed)
    return [
        {
            **{"video": video, "draw": video, "type": kind, "question": f"{kind} ?", "answer": "yes", "said": "no"},
            **{"correct": bool(rng.random() < accuracy), "tokens": tokens, "recall": 0.5, "purity": 0.25},
        }
        for video in range(40)
        for kind in ("needle", "count")
    ]


def write_simple_result(out: Path, settings: Settings, answers: list[dict[str, Any]], **outcome: Any) -> dict[str, Any]:
    """Write a result with constant costs and without kept tokens, and return its content."""
    return write_result(out, settings, Outcome(answers, COST, [], 0, "2026-01-01T00:00:00+00:00", **outcome))
