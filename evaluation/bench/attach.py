"""Cost and benefit of an attached compressor in a forward pass of a host: the command ``framefold bench attach``."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget, check_budget
from framefold.adapters.hosts.hooks.attach import attach
from framefold.errors import ConfigError
from framefold.evaluation.metrics.memory import peak_memory
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.evaluation.results.settings import FULL
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device

from .ideal_prefill import IdealPrefill, cached_columns, timed_language_model

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

Family = Literal["qwen2_5_vl", "qwen3_vl"]

SIZES: dict[str, dict[str, tuple[tuple[int, ...], tuple[int, ...]]]] = {  # of language model and vision encoder
    "small": dict.fromkeys(get_args(Family), ((512, 6, 8, 2, 1408, 4096), (128, 2, 4, 344))),
    "7b": {
        "qwen2_5_vl": ((3584, 28, 28, 4, 18944, 152064), (1280, 32, 16, 3420)),
        "qwen3_vl": ((4096, 36, 32, 8, 12288, 151936), (1152, 27, 16, 4304)),
    },
}

WORDS = 32  # text tokens in the prompt

STEPS = 10  # decode steps per turn

BARE = "host alone"


def bench_attach(
    size: Literal["small", "7b"] = "small",
    family: Family = "qwen2_5_vl",
    frames: int = 16,
    side: int = 14,
    compressor: str = "st_simdiff",
    budgets: list[Budget] = [0.25, 0.1],  # noqa: B006 (read only; a list for the command line)
    params: dict[str, Any] | None = None,
    layers: int | None = None,
    repeats: int = 15,
    device: str = "cpu",
    dtype: Float = "float32",
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa",
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Time a random Qwen2.5-VL or Qwen3-VL alone, with ``identity`` attached, and with a compressor attached.

    All variants alternate, so that the load of the machine affects them alike: compare the ratios. A prefill is one
    forward pass from pixels to the logits of the last token: vision encoder, compressor and language model. A decode
    step is one forward pass of one token after it.

    For a compressor that acts inside the language model, the ideal of this part of the prefill is the mean over the
    layers of the time that the host alone takes for as many columns as the layer has.

    Args:
        size: "small" for a CPU; "7b" has the sizes of Qwen2.5-VL-7B (17 GB in bfloat16), or of Qwen3-VL-8B.
        family: of the host.
        frames: steps of the token grid.
        side: height and width of the token grid; a video has frames * side^2 visual tokens.
        compressor: compressor to measure at the budgets, in addition to ``identity``.
        budgets: retention ratios, or numbers of tokens (ints); a compressor that acts inside the language model keeps
            all tokens at 1.0.
        params: parameters of the compressor that differ from its defaults.
        layers: decoder layers of the host; by default as many as its size has.
        repeats: timed turns; medians are reported.
        device: cpu, cuda or cuda:1.
        dtype: dtype of the host.
        attention: attention implementation of the host.
        seed: seed of weights and inputs.

    Returns:
        {"<name>@<budget>": {"columns", "cache_ratio", "prefill_s", "prefill_ratio", "language_s", "language_ratio",
        "decode_s", "decode_ratio", "peak_mb"}}: prompt tokens, columns in the key-value cache relative to the host
        alone, seconds of the prefill, of the language model in it and of a decode step, their ratios to the host alone,
        and on CUDA the peak of allocated memory in 10^6 bytes (else 0). Inside the language model also "of_ideal", the
        ideal time of the language model divided by its time.

    Raises:
        ConfigError, BudgetError, UnknownCompressorError: a setting is out of range; raised before the host is built.
    """
    if min(frames, side, repeats) < 1:
        raise ConfigError(f"frames, side and repeats must be at least 1, got {frames}, {side} and {repeats}")
    variants: dict[str, Compressor | None] = {BARE: None, FULL: build(FULL)}
    variants |= {
        f"{compressor}@{budget}": build(compressor, check_budget(budget), **(params or {})) for budget in budgets
    }
    resolve_device(device)
    if size not in SIZES or family not in get_args(Family) or dtype not in get_args(Float):
        sizes, dtypes = ", ".join(SIZES), ", ".join(get_args(Float))
        families = ", ".join(get_args(Family))
        wanted = f"size must be one of {sizes}, family one of {families} and dtype one of {dtypes}"
        raise ConfigError(f"{wanted}, got {size}, {family} and {dtype}")
    layers = SIZES[size][family][0][1] if layers is None else layers
    _check_layers(variants.values(), frames, side, layers)
    host = random_host(SIZES[size][family], family, layers, device, dtype, attention, seed)
    rows = _measure_turns(host, variants, random_inputs(host, frames, side, seed), repeats)
    print(_table(rows, host, repeats))
    return rows


def _check_layers(variants: Iterable[Compressor | None], frames: int, side: int, layers: int) -> None:
    """Check that the language model can have this many layers, and that budgets inside it are possible.

    Raises:
        ConfigError, BudgetError: it cannot, or one is not.
    """
    if layers < 1:
        raise ConfigError(f"layers must be at least 1, got {layers}")
    for variant in variants:
        if variant is not None and variant.in_llm is not None:
            variant.counts_in_llm(frames * side**2, side**2, layers)


def _measure_turns(
    host: Any, variants: dict[str, Compressor | None], inputs: dict[str, Tensor], repeats: int
) -> dict[str, dict[str, float]]:
    """Run all variants in turns, and the host alone at the lengths that stages in the language model leave."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    rows: dict[str, dict[str, float]] = {}
    columns: dict[str, tuple[int, ...]] = {}
    ideal = IdealPrefill(host)
    inside = [name for name, variant in variants.items() if variant is not None and variant.in_llm is not None]
    for turn in progress_bar(range(repeats + 1), "bench attach", unit="turn", leave=False):
        for name, variant in variants.items():
            rows[name], seconds, columns[name] = _measure(host, variant, inputs)
            for what, value in seconds.items():
                if turn:  # the first turn is a warm-up
                    times[name, what].append(value)
        ideal.measure(sorted({length for name in inside for length in columns[name]}), warm_up=not turn)
    for name, row in rows.items():
        for what in ("prefill", "language", "decode"):
            row[f"{what}_s"] = statistics.median(times[name, what])
            row[f"{what}_ratio"] = row[f"{what}_s"] / statistics.median(times[BARE, what])
        row["cache_ratio"] = sum(columns[name]) / sum(columns[BARE])
        if name in inside:
            row["of_ideal"] = ideal.of(columns[name]) / row["language_s"]
    return rows


def random_host(sizes: Any, family: str, layers: int, device: str, dtype: str, attention: str, seed: int) -> Any:
    """Return a frozen host with random weights.

    Args:
        sizes: of language model and vision encoder, see ``SIZES``.
        family: model type of the host.
        layers: decoder layers.
        device: of the weights.
        dtype: of the weights.
        attention: attention implementation.
        seed: of the weights.
    """
    text, vision = sizes
    text = (text[0], layers, *text[2:])
    head, last = text[0] // text[2], text[5] - 1
    side = 3 * head // 16  # sections of M-RoPE in time, height and width, together half a head
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [head // 2 - 2 * side, side, side]}
    own: dict[str, Any] = {}
    deep: dict[str, Any] = {}
    if family == "qwen3_vl":
        own = {"mrope_interleaved": True}
        deep = {"deepstack_visual_indexes": [layer for layer in (8, 16, 24) if layer < vision[1]] or [0]}
    config = AutoConfig.for_model(
        family,
        text_config=dict(zip(TEXT, text, strict=True))
        | {"rope_parameters": rope | own, "bos_token_id": None, "eos_token_id": None},
        vision_config=dict(zip(VISION, vision, strict=True)) | {"out_hidden_size": text[0]} | deep,
        video_token_id=last,
        image_token_id=last - 1,
        vision_start_token_id=last - 2,
        vision_end_token_id=last - 3,
    )
    torch.manual_seed(seed)
    with torch.device(device):
        host = AutoModelForImageTextToText.from_config(
            config, attn_implementation=attention, dtype=getattr(torch, dtype)
        )
    return host.eval().requires_grad_(False)


def random_inputs(host: Any, frames: int, side: int, seed: int) -> dict[str, Tensor]:
    """Return the arguments of a host for a prompt with one video of frames x side x side tokens."""
    config = host.config
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1000, 2000, (WORDS,), generator=generator)
    frame = torch.full((side * side,), config.video_token_id)
    if config.model_type == "qwen3_vl":  # the time of each frame is text between the frames
        frame = torch.cat([words[:1], frame])
    ids = torch.cat([words[: WORDS // 2], frame.repeat(frames), words[WORDS // 2 :]])[None]
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
    host: Any, variant: Compressor | None, inputs: dict[str, Tensor]
) -> tuple[dict[str, float], dict[str, float], tuple[int, ...]]:
    """Run one prefill and the decode steps.

    Returns:
        Prompt tokens and peak memory; seconds of each phase; columns that each layer has cached in the prefill.
    """
    prefill, decode, outputs = Stopwatch(host.device), Stopwatch(host.device), []

    def run_prefill() -> None:
        with prefill:
            outputs.append(host(**inputs, use_cache=True, logits_to_keep=1))

    peak = 0.0
    words = inputs["input_ids"][0, -(WORDS // 2) :]  # the question of query-aware compressors
    query = host.get_input_embeddings()(words) if variant is not None and variant.needs_query else None
    with contextlib.ExitStack() as stack:
        language = stack.enter_context(timed_language_model(host))
        stack.enter_context(attach(host, variant, query=query) if variant is not None else contextlib.nullcontext())
        if host.device.type == "cuda":
            before = torch.cuda.memory_allocated(host.device)
            peak = (before + peak_memory(run_prefill, host.device)) / 1e6
        else:
            run_prefill()
        cache, ids, seconds = outputs.pop().past_key_values, inputs["input_ids"][:, :1], language.seconds
        columns = cached_columns(cache)
        with decode:
            for _ in range(STEPS):
                host(input_ids=ids, past_key_values=cache)
    times = {"prefill": prefill.seconds, "language": seconds, "decode": decode.seconds / STEPS}
    return {"columns": columns[0], "peak_mb": peak}, times, columns


def _table(rows: dict[str, dict[str, float]], host: Any, repeats: int) -> str:
    lines = [
        f"{type(host).__name__} with random weights, {host.num_parameters() / 1e6:.0f} M parameters, {host.dtype},"
        f" {host.config._attn_implementation}, {host.device}; medians of {repeats}",
        f"{'':<22} {'columns':>8} {'KV cache':>9} {'prefill ms':>11} {'ratio':>7} {'LM ms':>9} {'ratio':>7}"
        f" {'of ideal':>9} {'decode ms':>10} {'ratio':>7} {'peak MB':>8}",
    ]
    for name, row in rows.items():
        peak = f"{row['peak_mb']:8.0f}" if row["peak_mb"] else f"{'-':>8}"
        ideal = f"{row['of_ideal']:9.1%}" if "of_ideal" in row else f"{'-':>9}"
        lines.append(
            f"{name:<22} {row['columns']:8.0f} {row['cache_ratio']:9.1%} {row['prefill_s'] * 1e3:11.1f}"
            f" {row['prefill_ratio']:7.3f} {row['language_s'] * 1e3:9.1f} {row['language_ratio']:7.3f} {ideal}"
            f" {row['decode_s'] * 1e3:10.2f} {row['decode_ratio']:7.3f} {peak}"
        )
    return "\n".join(lines)
