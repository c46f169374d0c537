"""Use framefold in a Python without transformers, as it is after ``pip install framefold`` without extras.

Runs every shipped adapter and every compressor on random tokens, and checks what names of framefold need a host. It is
run as a script, by a test and in environments that contain nothing but the base install.

    python base_install.py CHECKPOINTS
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

import framefold
from framefold.adapters.core.language_model import LanguageModelShape
from framefold.errors import MissingExtraError

NEED_HOSTS = ("attach", "detach", "list_families", "register_family", "load_peft", "save_peft")
NEED_HOSTS += ("compressor_losses", "init_from_host")
WIDTH, FRAMES = 16, 8
SHAPE = LanguageModelShape(layers=4, width=WIDTH, heads=4, kv_heads=2, head_width=4)


def run(compressor: Any, width: int, grid: tuple[int, int]) -> torch.Tensor:
    """Compress random tokens to the budget of the compressor, and return their features."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(FRAMES, *grid, width, generator=generator)
    attention = torch.rand(FRAMES, *grid, generator=generator)
    video = framefold.VideoTokens.from_grid(features, times=0.5 * torch.arange(FRAMES), attention=attention)
    query = torch.randn(5, width, generator=generator) if compressor.query_aware else None
    with torch.no_grad():
        tokens = compressor(video, query).tokens
    n = features[..., 0].numel()
    exact = compressor.exact_budget
    count = compressor.entering(max(1, round(compressor.budget * n)), n, n // FRAMES) if exact else len(tokens)
    assert len(tokens) == count and tokens.features.isfinite().all(), (compressor.name, len(tokens), count)
    return tokens.features


def run_adapter(folder: Path) -> None:
    """Load a shipped adapter, run it, save it, and run what was saved."""
    compressor = framefold.load(folder)
    params = compressor.params()
    width, grid = int(params["dim"]), tuple(params.get("grid", (4, 4)))
    features = run(compressor, width, grid)
    with tempfile.TemporaryDirectory() as copy:
        compressor.save_pretrained(copy)
        assert torch.equal(run(framefold.load(copy), width, grid), features), folder
    print(f"{folder}: {compressor.name}, {FRAMES * grid[0] * grid[1]} tokens of width {width} -> {len(features)}")


def run_compressor(name: str) -> None:
    """Run a compressor with initial weights."""
    compressor = framefold.build(name, budget=0.25).eval()
    compressor.materialize(WIDTH, (4, 4))
    compressor.materialize_in_llm(SHAPE)
    run(compressor, WIDTH, (4, 4))


def refused(name: str) -> bool:
    """Whether a name of framefold ends in the error that names the extra, without a traceback of other packages."""
    try:
        getattr(framefold, name)
    except MissingExtraError as error:
        return "transformers is not installed (extra 'hosts'): pip install " in str(error)
    return False


def main(checkpoints: str) -> None:
    assert "transformers" not in sys.modules
    warnings.simplefilter("ignore")  # compressors with initial weights
    adapters = sorted(
        file.parent for file in Path(checkpoints).rglob("config.json") if not file.parent.name.startswith("tinyhost")
    )
    assert adapters, f"no adapters in {checkpoints}"
    for folder in adapters:
        run_adapter(folder)
    names = framefold.list_compressors()
    for name in names:
        run_compressor(name)
    assert not [name for name in NEED_HOSTS if not refused(name)]
    try:
        importlib.import_module("framefold.adapters.hosts.hooks.attach")
    except MissingExtraError as error:
        print(f"framefold.attach: {type(error).__name__}: {error}")
    assert "transformers" not in sys.modules
    print(f"without transformers: {len(adapters)} adapters and {len(names)} compressors ran")


if __name__ == "__main__":
    main(sys.argv[1])
