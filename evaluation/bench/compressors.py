"""Time, memory, operations and parameters of compressors without a host: the command ``framefold bench compress``.

Dimensions: T frames, H x W tokens of a frame, D width of a token.
"""

from __future__ import annotations

import itertools
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framefold.adapters.base.build import build
from framefold.adapters.core.budget import check_budget
from framefold.adapters.core.registry import compressor_class, list_compressors
from framefold.adapters.core.tokens import DTYPES, VideoTokens
from framefold.errors import ConfigError
from framefold.evaluation.metrics.flops import count_flops
from framefold.evaluation.metrics.memory import peak_tensor_bytes
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.files import write_json
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.version import __version__

YARDSTICK = "yardstick"

MOST_SECONDS, LEAST_TURNS = 5.0, 3  # of the timed turns of one compressor

WORDS = 16  # length of the question for query-aware compressors, in tokens

Measurement = dict[str, Any]


def _scenes(t: int, h: int, w: int, width: int, generator: torch.Generator) -> Tensor:
    """(T, H, W, D) features of scenes of 16 frames, each a smooth picture with little noise."""
    out = torch.empty(t, h, w, width)
    for start in range(0, t, 16):
        coarse = torch.randn(1, width, 4, 4, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear")[0].movedim(0, -1)
        for frame in out[start : start + 16]:
            frame.normal_(std=0.3, generator=generator).add_(picture)
    return out


def _one_component(t: int, h: int, w: int, width: int, generator: torch.Generator) -> Tensor:
    """(T, H, W, D) features that are all similar: the whole video is one connected component."""
    return torch.randn(width, generator=generator) + 0.1 * torch.randn(t, h, w, width, generator=generator)


def _noise(t: int, h: int, w: int, width: int, generator: torch.Generator) -> Tensor:
    """(T, H, W, D) features of which no two are similar."""
    return torch.randn(t, h, w, width, generator=generator)


INPUTS: dict[str, Callable[..., Tensor]] = {"scenes": _scenes, "one": _one_component, "noise": _noise}


def bench_compress(
    compressors: list[str] | None = None,
    frames: list[int] = [64],  # noqa: B006 (read only; lists for the command line)
    grid: tuple[int, int] = (14, 14),
    width: int = 1024,
    budgets: list[float] = [0.25, 0.1, 0.05],  # noqa: B006
    inputs: list[str] = ["scenes", "one"],  # noqa: B006
    params: dict[str, dict[str, Any]] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    repeats: int = 9,
    threads: int = 1,
    seed: int = 0,
    out: str | None = None,
) -> list[Measurement]:
    """Measure time, extra memory and tokens of compressors, in multiples of one pass over the features.

    The unit, called yardstick, is the time of the cosine similarities of neighbouring frames of the whole video,
    computed without optimisation. All measurements alternate, so that the load of the machine affects them alike:
    compare the ratios.

    Args:
        compressors: registered names; by default all that do not act inside the language model: about a quarter
            of an hour on one core. Query-aware ones get a question of 16 tokens, and those that need attention of the
            vision encoder get random numbers.
        frames: lengths of the videos; several lengths give a plot of time against tokens.
        grid: (H, W) tokens of a frame.
        width: width D of a token.
        budgets: retention ratios.
        inputs: "scenes" (pictures that change every 16 frames), "one" (all tokens similar), "noise" (none similar).
        params: parameters of compressors that differ from their defaults, by name.
        device: device of the features.
        dtype: dtype of the features.
        repeats: timed turns, of which medians are reported; slow compressors take part in fewer, at least three.
        threads: threads of torch on the CPU.
        seed: seed of the features.
        out: output folder for bench.json and bench.png.

    Returns:
        One dictionary per input, length, compressor and budget: input, frames, tokens_in, compressor, budget,
        tokens_out, seconds, yardsticks, peak_bytes, peak_inputs (extra memory as a multiple of the features), flops
        (of matrix products and attention), parameters.

    Raises:
        ConfigError, BudgetError, UnknownCompressorError: a setting is out of range; raised before any measurement.
    """
    names = compressors if compressors is not None else _outside_the_llm()
    _check(frames, grid, width, inputs, min(repeats, threads), device, dtype)
    variants = [
        (name, budget, build(name, check_budget(budget), **(params or {}).get(name, {})).eval())
        for name in names
        for budget in budgets
    ]
    if out is not None:  # an output folder that cannot be written raises before the work
        if Path(out).exists() and not Path(out).is_dir():
            raise ConfigError(f"out must be a folder, but {out} is a file")
        Path(out).mkdir(parents=True, exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        videos = list(itertools.product(inputs, frames))
        rows = [
            row
            for kind, t in progress_bar(videos, "bench compress", unit="video", leave=False)
            for row in _measure(_video(kind, t, grid, width, device, dtype, seed), variants, repeats, kind)
        ]
    finally:
        torch.set_num_threads(before)
    print(_table(rows, grid, width, dtype, device, repeats, threads))
    if out is not None:
        _write(
            Path(out), rows, dict(grid=grid, width=width, dtype=dtype, device=device, repeats=repeats, threads=threads)
        )
    return rows


def _outside_the_llm() -> list[str]:
    return [name for name in list_compressors() if build(name).in_llm is None]


def _check(
    frames: list[int], grid: tuple[int, int], width: int, inputs: list[str], repeats: int, device: str, dtype: str
) -> None:
    if not frames or min(*frames, *grid, width, repeats, 1) < 1:
        got = f"{frames}, {grid}, {width}, {repeats}"
        raise ConfigError(f"frames, grid, width, repeats and threads must be at least 1, got {got}")
    if unknown := set(inputs) - set(INPUTS):
        raise ConfigError(f"inputs must be of {', '.join(INPUTS)}, got {', '.join(sorted(unknown))}")
    if getattr(torch, dtype, None) not in DTYPES:
        raise ConfigError(f"dtype must be float16, bfloat16, float32 or float64, got {dtype!r}")
    resolve_device(device)


def _video(kind: str, t: int, grid: tuple[int, int], width: int, device: str, dtype: str, seed: int) -> VideoTokens:
    generator = torch.Generator().manual_seed(seed)
    features = INPUTS[kind](t, *grid, width, generator)
    attention = torch.rand(t, *grid, generator=generator)
    return VideoTokens.from_grid(features.to(device, getattr(torch, dtype)), attention=attention)


def yardstick(x: Tensor) -> Tensor:
    """(T - 1, H, W) cosine similarities of neighbouring frames of (T, H, W, D) features."""
    return (x[1:] * x[:-1]).sum(-1) / (
        torch.linalg.vector_norm(x[1:], dim=-1) * torch.linalg.vector_norm(x[:-1], dim=-1)
    )


Run = tuple[str, float | None, Callable[[], Any]]  # name, budget (None: yardstick), and the call


@torch.no_grad()
def _time(runs: list[Run], repeats: int, device: torch.device, title: str) -> tuple[list[list[float]], list[int]]:
    """Return the seconds of the timed turns of each run, which alternate, and the numbers of tokens."""
    times: list[list[float]] = [[] for _ in runs]
    turns, tokens = [repeats] * len(runs), [0] * len(runs)
    for turn in progress_bar(range(repeats + 1), title, unit="turn", leave=False):
        for number, (_, budget, run) in enumerate(runs):
            if turn > turns[number]:
                continue
            with Stopwatch(device) as watch:
                out = run()
            if turn:
                times[number].append(watch.seconds)
            elif budget is not None:  # the first turn is a warm-up
                tokens[number] = len(out.tokens)
                turns[number] = min(repeats, max(LEAST_TURNS, int(MOST_SECONDS / max(watch.seconds, 1e-9))))
            del out
    return times, tokens


@torch.no_grad()
def _measure(video: VideoTokens, variants: list[tuple[str, float, Any]], repeats: int, kind: str) -> list[Measurement]:
    features = video.as_grid()
    size = features.numel() * features.element_size()
    runs: list[Run] = [(YARDSTICK, None, lambda: yardstick(features))]
    question = video.features[:WORDS]
    runs += [
        (name, budget, lambda run=run: run(video, question if getattr(run, "query_aware", False) else None))  # type: ignore[misc]
        for name, budget, run in variants
    ]
    times, tokens = _time(runs, repeats, features.device, f"{kind}, {video.grid[0]} frames")
    rows = []
    weights = [0, *(sum(parameter.numel() for parameter in run.parameters()) for _, _, run in variants)]
    for (name, budget, run), count, own, parameters in zip(runs, tokens, times, weights, strict=True):
        peak = peak_tensor_bytes(run, features)
        median = statistics.median(own)
        rows.append(
            dict(
                input=kind, frames=video.grid[0], tokens_in=len(video), compressor=name, budget=budget,
                tokens_out=None if budget is None else count, seconds=median,
                yardsticks=median / statistics.median(times[0]),
                peak_bytes=peak, peak_inputs=peak / size, flops=count_flops(run), parameters=parameters,
            )
        )  # fmt: skip
    return rows


def _table(
    rows: list[Measurement], grid: tuple[int, int], width: int, dtype: str, device: str, repeats: int, threads: int
) -> str:
    lines = [
        f"grid {grid[0]} x {grid[1]}, width {width}, {dtype}, {device}, {threads} threads; medians of {repeats}",
        f"{'input':<8} {'frames':>6} {'compressor':<12} {'budget':>6} {'tokens':>7} {'ms':>9} {'yardsticks':>10}"
        f" {'extra / input':>13} {'GFLOP':>9} {'parameters':>12}",
    ]
    for row in rows:
        budget = "" if row["budget"] is None else f"{row['budget']:g}"
        tokens = "" if row["tokens_out"] is None else row["tokens_out"]
        lines.append(
            f"{row['input']:<8} {row['frames']:>6} {row['compressor']:<12} {budget:>6} {tokens:>7}"
            f" {row['seconds'] * 1e3:9.1f} {row['yardsticks']:10.2f} {row['peak_inputs']:13.2f}"
            f" {row['flops'] / 1e9:9.1f} {row['parameters']:12,}"
        )
    untrained = sorted({row["compressor"] for row in rows if _is_trainable(row["compressor"])})
    if untrained:
        lines.append(f"untrained: {', '.join(untrained)}; their costs do not depend on the values of their weights")
    return "\n".join(lines)


def _is_trainable(name: str) -> bool:
    return name != YARDSTICK and bool(compressor_class(name).trainable)


def _write(folder: Path, rows: list[Measurement], settings: dict[str, Any]) -> None:
    from framefold.evaluation.report.plots import plot_times

    machine = dict(torch=torch.__version__, python=platform.python_version(), machine=platform.machine())
    write_json(folder / "bench.json", {"framefold": __version__, **machine, **settings, "rows": rows})
    plot_times(rows, folder / "bench.png")
