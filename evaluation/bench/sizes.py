"""Parameters and operations of trained compressors at the size of a language model of 7B: ``framefold bench size``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from framefold.adapters.base.build import build
from framefold.adapters.core.budget import budget_tokens, check_budget
from framefold.adapters.core.registry import compressor_class, list_compressors
from framefold.adapters.core.tokens import VideoTokens
from framefold.errors import ConfigError
from framefold.evaluation.metrics.flops import PrefillFormula, count_flops
from framefold.files import write_json
from framefold.progress import progress_bar
from framefold.version import __version__

from .compressors import INPUTS, WORDS

# The language model of Qwen2.5-VL-7B, whose prefill is saved.
QWEN2_5_7B = SimpleNamespace(
    hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
    vocab_size=152064,
)  # fmt: skip
TEXT_TOKENS = 50  # of the prompt, besides the visual ones

Row = dict[str, Any]


def bench_size(
    compressors: list[str] | None = None,
    params: dict[str, dict[str, Any]] | None = None,
    frames: int = 64,
    grid: tuple[int, int] = (14, 14),
    width: int = 3584,
    budget: float = 0.1,
    seed: int = 0,
    out: str | None = None,
) -> list[Row]:
    """Count parameters and operations of trained compressors, and compare them with the prefill that they save.

    The prefill is that of Qwen2.5-7B. Operations are those of matrix products, convolutions and attention of one
    forward pass for one video and one question; those of k-means depend on the video.

    Args:
        compressors: registered names; by default all trained ones that do not act inside the language model.
        params: parameters of compressors that differ from their defaults, by name; rows are named after them, too.
        frames: number of frames.
        grid: (H, W) tokens of a frame.
        width: width D of a token.
        budget: retention ratio.
        seed: seed of the features.
        out: output folder for size.json, which 'framefold catalogue --size' reads.

    Returns:
        One dictionary per compressor: name, compressor, params, parameters, flops, counterpart, counterpart_flops,
        saved_flops.

    Raises:
        ConfigError, BudgetError, UnknownCompressorError: a setting is out of range.
    """
    if min(frames, *grid, width) < 1:
        raise ConfigError(f"frames, grid and width must be at least 1, got {frames}, {grid}, {width}")
    known = list_compressors(trainable=True)
    names = compressors if compressors is not None else [one for one in known if build(one).in_llm is None]
    if untrained := [name for name in names if not compressor_class(name).trainable]:
        raise ConfigError(f"bench size counts trained compressors, not {', '.join(untrained)}")
    video = VideoTokens.from_grid(INPUTS["scenes"](frames, *grid, width, torch.Generator().manual_seed(seed)))
    saved = saved_flops(len(video), budget_tokens(check_budget(budget), len(video)))
    rows = [
        _count(name, (params or {}).get(name, {}), video, budget) | {"saved_flops": saved}
        for name in progress_bar(names, "bench size", unit="compressor", leave=False)
    ]
    for row in rows:
        print(
            f"{row['name']:<40} {row['parameters']:12,} parameters {row['flops'] / 1e9:9.1f} GFLOP, counterpart"
            f" {row['counterpart_flops'] / 1e9:9.1f}; {100 * row['flops'] / saved:.3f} % of the prefill saved"
        )
    if out is not None:
        setting = {"frames": frames, "grid": list(grid), "width": width, "budget": budget}
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "size.json", {"framefold": __version__, **setting, "rows": rows})
    return rows


def saved_flops(tokens: int, kept: int) -> float:
    """Return the operations that a prefill of Qwen2.5-7B has less with ``kept`` of ``tokens`` visual tokens."""
    formula = PrefillFormula.of(QWEN2_5_7B)
    assert formula is not None
    return formula(tokens + TEXT_TOKENS) - formula(kept + TEXT_TOKENS)


@torch.no_grad()
def _count(name: str, params: dict[str, Any], video: VideoTokens, budget: float) -> Row:
    compressor = build(name, budget, **params).eval()
    compressor.materialize(video.width, video.grid[1:])
    start, start_params = type(compressor).counterpart_of(compressor.params())
    counted = {"flops": compressor}
    if start is not None:
        counted["counterpart_flops"] = build(start, budget, **start_params)
    question = video.features[:WORDS]

    def call(one: Any) -> Any:
        return one(video, question if one.query_aware else None)

    counts = {key: count_flops(lambda one=one: call(one)) for key, one in counted.items()}  # type: ignore[misc]
    return {
        "name": ", ".join([name, *(f"{key}={value}" for key, value in params.items())]),
        "compressor": name,
        "params": params,
        "parameters": sum(parameter.numel() for parameter in compressor.parameters()),
        "counterpart": start,
        "counterpart_flops": 0,
        **counts,
    }
