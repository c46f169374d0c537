"""What an attached compressor costs and saves in a forward of a host: the verb ``framefold bench attach``."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import check_budget
from framefold.adapters.hosts.hooks.attach import attach
from framefold.errors import ConfigError
from framefold.training.frozen_host.device import device_of

Float = Literal["float32", "bfloat16", "float16"]

TEXT = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)

VISION = ("hidden_size", "depth", "num_heads", "intermediate_size")

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # of the language model and of the vision encoder
    "small": ((512, 6, 8, 2, 1408, 4096), (128, 2, 4, 344)),
    "7b": ((3584, 28, 28, 4, 18944, 152064), (1280, 32, 16, 3420)),
}

WORDS = 32  # columns of text in the prompt

STEPS = 10  # decode steps a turn

BARE = "host alone"


def bench_attach(
    size: Literal["small", "7b"] = "small",
    frames: int = 16,
    side: int = 14,
    compressor: str = "st_simdiff",
    budgets: list[float] = [0.25, 0.1],  # noqa: B006 (read only; a list for the command line)
    repeats: int = 15,
    device: str = "cpu",
    dtype: Float = "float32",
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Print and return times of a random-init Qwen2.5-VL alone, with ``identity`` attached, and with a compressor.

    Everything takes turns, so that what else the machine does hits all alike: compare the ratios. A prefill is one
    forward from pixels to the logits of the last column: vision encoder, compressor and language model. A decode step
    is one forward of one token after it.

    Args:
        size: "small" for a CPU, "7b" has the sizes of Qwen2.5-VL-7B (17 GB in bfloat16).
        frames, side: the token grid; a video has frames * side^2 visual tokens.
        compressor: what is measured at the budgets, beside ``identity``.
        repeats: forwards of each; medians are given.
        attention: implementation of attention in the host.

    Returns:
        {"<name>@<budget>": {"columns", "prefill_s", "prefill_ratio", "decode_s", "decode_ratio", "peak_mb"}}; seconds,
        ratios to the host alone, and on CUDA the peak of allocated memory in 10^6 bytes (else 0).

    Raises:
        ConfigError, BudgetError, UnknownCompressorError: a setting out of range; found before the host is built.
    """
    if min(frames, side, repeats) < 1:
        raise ConfigError(f"frames, side and repeats must be at least 1, got {frames}, {side} and {repeats}")
    settings: dict[str, Compressor | None] = {BARE: None, "identity": build("identity")}
    settings |= {f"{compressor}@{budget:g}": build(compressor, check_budget(budget)) for budget in budgets}
    device_of(device)
    if size not in SIZES or dtype not in get_args(Float):
        raise ConfigError(f"size must be of {', '.join(SIZES)}, dtype of {', '.join(get_args(Float))}: {size}, {dtype}")
    host = _host(size, device, dtype, attention, seed)
    inputs = _inputs(host, frames, side, seed)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    rows: dict[str, dict[str, float]] = {}
    for turn in range(repeats + 1):
        for name, plug in settings.items():
            rows[name], seconds = _measure(host, plug, inputs)
            for what, value in seconds.items():
                if turn:  # the first warms up
                    times[name, what].append(value)
    for name, row in rows.items():
        for what in ("prefill", "decode"):
            row[f"{what}_s"] = statistics.median(times[name, what])
            row[f"{what}_ratio"] = row[f"{what}_s"] / statistics.median(times[BARE, what])
    print(_table(rows, host, repeats))
    return rows


def _host(size: str, device: str, dtype: str, attention: str, seed: int) -> Any:
    text, vision = SIZES[size]
    head, last = text[0] // text[2], text[5] - 1
    side = 3 * head // 16  # sections of M-RoPE in time, height and width, together half a head
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [head // 2 - 2 * side, side, side]}
    config = Qwen2_5_VLConfig(
        text_config=dict(zip(TEXT, text, strict=True))
        | {"rope_parameters": rope, "bos_token_id": None, "eos_token_id": None},
        vision_config=dict(zip(VISION, vision, strict=True)) | {"out_hidden_size": text[0]},
        video_token_id=last,
        image_token_id=last - 1,
        vision_start_token_id=last - 2,
        vision_end_token_id=last - 3,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        host = Qwen2_5_VLForConditionalGeneration._from_config(
            config, attn_implementation=attention, dtype=getattr(torch, dtype)
        )
    return host.eval().requires_grad_(False)


def _inputs(host: Any, frames: int, side: int, seed: int) -> dict[str, Tensor]:
    config = host.config
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1000, 2000, (WORDS,), generator=generator)
    video = torch.full((frames * side * side,), config.video_token_id)
    ids = torch.cat([words[: WORDS // 2], video, words[WORDS // 2 :]])[None]
    vision = config.vision_config
    merge, patch = vision.spatial_merge_size, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == config.video_token_id).int() * 2,
        "pixel_values_videos": torch.randn(frames * (side * merge) ** 2, patch, generator=generator).to(host.dtype),
        "video_grid_thw": torch.tensor([[frames, side * merge, side * merge]]),
    }
    return {name: value.to(host.device) for name, value in inputs.items()}


@torch.no_grad()
def _measure(
    host: Any, plug: Compressor | None, inputs: dict[str, Tensor]
) -> tuple[dict[str, float], dict[str, float]]:
    """One prefill and ten decode steps; tokens that reached the language model, peak memory; seconds of each."""
    cuda = host.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    with attach(host, plug) if plug is not None else contextlib.nullcontext():
        prefill, out = _timed(lambda: host(**inputs, use_cache=True, logits_to_keep=1), cuda)
        peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else 0.0
        cache, ids = out.past_key_values, inputs["input_ids"][:, :1]
        columns = cache.get_seq_length()
        decode, _ = _timed(lambda: [host(input_ids=ids, past_key_values=cache) for _ in range(STEPS)], cuda)
    return {"columns": columns, "peak_mb": peak}, {"prefill": prefill, "decode": decode / STEPS}


def _timed(run: Callable[[], Any], cuda: bool) -> tuple[float, Any]:
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    out = run()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, out


def _table(rows: dict[str, dict[str, float]], host: Any, repeats: int) -> str:
    lines = [
        f"{type(host).__name__} with random weights, {host.num_parameters() / 1e6:.0f} M parameters, {host.dtype},"
        f" {host.config._attn_implementation}, {host.device}; medians of {repeats}",
        f"{'':<20} {'columns':>8} {'prefill ms':>11} {'ratio':>7} {'decode ms':>10} {'ratio':>7} {'peak MB':>9}",
    ]
    for name, row in rows.items():
        peak = f"{row['peak_mb']:9.0f}" if row["peak_mb"] else f"{'-':>9}"
        lines.append(
            f"{name:<20} {row['columns']:8.0f} {row['prefill_s'] * 1e3:11.1f} {row['prefill_ratio']:7.3f}"
            f" {row['decode_s'] * 1e3:10.2f} {row['decode_ratio']:7.3f} {peak}"
        )
    return "\n".join(lines)
