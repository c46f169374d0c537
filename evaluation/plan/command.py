"""``framefold plan``: the needs of a training as a table and as JSON, and what to change if they do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from framefold.adapters.core.budget import Budget, check_budget
from framefold.errors import ConfigError
from framefold.files import write_json
from framefold.training.lora_settings import LoraSettings

from .per_gpu import STRATEGIES, Strategy
from .predict import GB, Plan, Setup, predict_needs
from .workload import Precision, Workload


def plan(
    host: str = "checkpoints/tinyhost",
    frames: int = 64,
    size: int | tuple[int, int] = 448,
    compressor: str = "fila",
    budget: Budget = 0.1,
    params: dict[str, Any] | None = None,
    lora: LoraSettings | None = None,
    batch: int = 1,
    questions: int = 1,
    features: bool = False,
    strategy: Strategy = "single",
    gpus: int = 1,
    precision: Precision = "bf16-mixed",
    host_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    host_bits: Literal[4] | None = None,
    attention: Literal["sdpa", "eager"] = "sdpa",
    checkpointing: bool = False,
    vision_chunk: int | None = None,
    gpu_memory: float | None = None,
    tflops: float | None = None,
    bandwidth: float | None = None,
    out: str | None = None,
) -> Plan:
    """Predict what one step of a training needs on each GPU, from the configuration of the host alone.

    The functions that training calls run on tensors without values, so no weights and no GPU are needed, and memory and
    operations are counted instead of computed by formulas. What a strategy adds or divides is computed from the sizes
    of the weights; of the strategies, single and fsdp2 have been compared with real trainings. Memory is that of
    tensors: a CUDA context, the allocator's gaps and the workspaces of libraries come on top (plan with a tenth of the
    GPU to spare).

    Args:
        host: folder of the host, of which only config.json is read, or its id on the Hub, if that file is there.
        frames: frames of a video that the host encodes.
        size: height and width of a frame in pixels after the processor's resizing; one number for squares. Without
            effect on hosts whose frames have one size.
        compressor: registered name.
        budget: retention ratio, or number of tokens per video.
        params: parameters of the compressor.
        lora: settings of LoRA in the language model of the host.
        batch: videos in a step of one GPU.
        questions: questions about each video; a query-aware compressor runs once for each.
        features: train from features that 'framefold shards features' wrote, so that no vision encoder is needed.
        strategy: single, ddp, zero_2, zero_3 (DeepSpeed) or fsdp2.
        gpus: number of GPUs; weights and state are divided over them as the strategy does.
        precision: of the trainer.
        host_dtype: of the host's weights; "auto" is that of its configuration.
        host_bits: 4 for linear layers of the language model in 4 bits, with a scale for each 64 weights.
        attention: implementation in the language model; FlashAttention needs what sdpa needs.
        checkpointing: recompute the activations of the decoder layers, as --model.checkpointing true does.
        vision_chunk: frames that the vision encoder takes at once, as --model.vision_chunk sets.
        gpu_memory: memory of a GPU in 10^9 bytes; if it is not enough, the output says what to change.
        tflops: rate of matrix products that a GPU reaches, in 10^12 operations per second, for the time of a step.
        bandwidth: rate at which its memory is read and written, in 10^9 bytes per second.
        out: JSON file to write.

    Returns:
        The prediction.

    Raises:
        HostError: there is no such host, or its configuration is damaged.
        ConfigError, BudgetError, UnknownCompressorError: a setting is out of range.
    """
    height, width = (size, size) if isinstance(size, int) else size
    _check(
        min(frames, height, width, batch, questions, gpus, vision_chunk or 1),
        strategy,
        gpus,
        (gpu_memory, tflops, bandwidth),
    )
    if out is not None:
        _check_file(Path(out))
    work = Workload(
        frames, height, width, batch, questions, features=features, precision=precision, vision_chunk=vision_chunk
    )
    setup = Setup(
        host, compressor, check_budget(budget), params, lora, work, strategy, gpus, host_dtype, host_bits, attention,
        checkpointing,
    )  # fmt: skip
    found = predict_needs(setup, tflops, bandwidth)
    print(plan_table(setup, found))
    advice = list(advise(setup, gpu_memory, found)) if gpu_memory else []
    print(*advice, sep="\n", end="\n" if advice else "")
    if out is not None:
        write_json(Path(out), {**found.as_dict(), "settings": asdict(setup), "advice": advice})
    return found


def _check_file(file: Path) -> None:
    """Create the folder of a file before work is spent.

    Raises:
        ConfigError: The file cannot be written.
    """
    if file.is_dir():
        raise ConfigError(
            f"out must be a JSON file, but {file} is a folder: give a file in it, such as {file / 'plan.json'}"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the folder of {file} cannot be created ({error.strerror}): give another file as out"
        ) from None


def _check(smallest: int, strategy: str, gpus: int, rates: tuple[float | None, ...]) -> None:
    if smallest < 1:
        raise ConfigError("frames, size, batch, questions, gpus and vision_chunk must be at least 1")
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy}")
    if strategy == "single" and gpus > 1:
        raise ConfigError(f"one process trains on one GPU: give a strategy for {gpus}, such as --strategy ddp")
    if any(rate is not None and rate <= 0 for rate in rates):
        raise ConfigError("gpu_memory, tflops and bandwidth must be positive")


def plan_table(setup: Setup, found: Plan) -> str:
    """Return a prediction as text."""
    parameters = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in found.parameters.items())
    lines = [
        f"{setup.compressor} at {setup.budget} in {setup.host}, {setup.work.precision},"
        f" {setup.strategy} on {setup.gpus}",
        f"visual tokens of a video: {found.visual_tokens:,}, of which {found.kept_tokens:,.0f} are kept",
        f"parameters: {parameters}",
        f"memory of a GPU at its peak, in the {found.peak_in}:",
        *(f"  {part:<18} {size / GB:9.3f} GB" for part, size in sorted(found.memory.items(), key=lambda one: -one[1])),
        f"  {'total':<18} {found.total / GB:9.3f} GB",
        f"operations of a step: {sum(found.flops.values()) / 1e12:,.3f} TFLOP ({_shares(found.flops)})",
    ]
    if found.seconds is not None:
        low, high = found.seconds
        lines.append(f"time of a step: {low:.3f} to {high:.3f} s, without data and communication")
    return "\n".join([*lines, *(f"not included: {note}" for note in found.notes)])


def _shares(flops: dict[str, int]) -> str:
    whole = max(1, sum(flops.values()))
    return ", ".join(f"{part} {100 * count / whole:.0f} %" for part, count in flops.items() if count)


def advise(setup: Setup, gpu_memory: float, found: Plan) -> Iterator[str]:
    """Yield a line for each change that lowers the memory, one on top of the other, until the training fits.

    Args:
        setup: of the training.
        gpu_memory: of a GPU, in 10^9 bytes.
        found: prediction for the setup.
    """
    if found.total <= gpu_memory * GB:
        yield f"fits into {gpu_memory:g} GB"
        return
    yield f"does not fit into {gpu_memory:g} GB; change, one on top of the other:"
    for option, changed in _candidates(setup):
        setup = changed(setup)
        new = predict_needs(setup)
        if new.total >= 0.99 * found.total:
            continue
        found = new
        fits = found.total <= gpu_memory * GB
        yield f"  {option:<24} {found.total / GB:9.3f} GB{', fits' if fits else ''}"
        if fits:
            return
    yield "  that is not enough: fewer frames, smaller ones, a smaller host or more memory"


def _candidates(setup: Setup) -> Iterator[tuple[str, Any]]:
    """Yield options and what they change, those with the smallest disadvantages first."""
    work = setup.work
    if not work.features and work.vision_chunk is None:
        yield "--vision_chunk 8", lambda one: replace(one, work=replace(one.work, vision_chunk=8))
    if not work.features:
        yield "--features true", lambda one: replace(one, work=replace(one.work, features=True))
    if not setup.checkpointing:
        yield "--checkpointing true", lambda one: replace(one, checkpointing=True)
    if work.batch > 1:
        yield "--batch 1", lambda one: replace(one, work=replace(one.work, batch=1))
    if setup.gpus > 1 and setup.strategy not in ("zero_3", "fsdp2"):
        yield "--strategy fsdp2", lambda one: replace(one, strategy="fsdp2")
    if setup.host_bits is None and setup.strategy in ("single", "ddp"):
        yield "--host_bits 4", lambda one: replace(one, host_bits=4, strategy=setup.strategy)
    if isinstance(setup.budget, float):
        yield f"--budget {setup.budget / 2:g}", lambda one: replace(one, budget=one.budget / 2)
