"""Our Mamba-2 block against that of transformers, on the CPU: the command ``framefold bench ssm``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any, Literal

import torch
from torch import nn

from framefold.adapters.layers.mamba2 import Mamba2
from framefold.errors import ConfigError
from framefold.evaluation.metrics.memory import peak_memory
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.progress import progress_bar

OURS, THEIRS = "framefold", "transformers"

Result = dict[str, dict[str, float]]


def bench_ssm(
    length: int = 12544,
    width: int = 256,
    headdim: int = 64,
    state: int = 64,
    repeats: int = 5,
    checkpointing: bool = False,
    threads: int = 1,
) -> Result:
    """Measure time and memory of a forward and backward pass of our Mamba-2 block and of ``Mamba2Mixer``.

    Every run has its own process, so that no memory is reused; the two blocks alternate. Their weights have the same
    shapes; ``Mamba2Mixer`` uses its default chunk length of 256.

    Args:
        length: sequence length; 12,544 is 64 frames of 14 x 14 tokens.
        width: model dimension of the block.
        headdim: head dimension of the block.
        state: state dimension of the block.
        repeats: runs of each block; medians are reported.
        checkpointing: our block recomputes its scan in the backward pass.
        threads: threads of torch.

    Returns:
        {"framefold" | "transformers": {"cpu_s", "wall_s", "peak_mb"}}: seconds of processor and wall-clock time, and
        growth of the process during the pass, in 10^6 bytes.

    Raises:
        ConfigError: a number is out of range.
    """
    if min(length, width, headdim, state, repeats, threads) < 1 or 2 * width % headdim:
        raise ConfigError(f"all numbers must be positive, and headdim must divide 2 * width: {width=}, {headdim=}")
    settings = dict(
        length=length, width=width, headdim=headdim, state=state, checkpointing=checkpointing, threads=threads
    )
    runs: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    order = list(runs) * repeats
    for name in progress_bar(order, "bench ssm", unit="run", leave=False):
        runs[name].append(_run(name, settings))
    medians = {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in runs.items()
    }
    print(f"Mamba-2 block, L {length}, D {width}, p {headdim}, n {state}, forward and backward, {threads} threads")
    for name, row in medians.items():
        print(f"{name:<14} {row['cpu_s']:7.2f} s processor {row['wall_s']:7.2f} s wall {row['peak_mb']:8.0f} MB")
    time_ratio, memory_ratio = (medians[THEIRS][key] / medians[OURS][key] for key in ("cpu_s", "peak_mb"))
    print(f"transformers / framefold: time {time_ratio:.2f}, memory {memory_ratio:.2f}")
    return medians


def _run(name: str, settings: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "framefold.evaluation.bench.mamba2", name, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(f"the run of {name} failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _block(name: Literal["framefold", "transformers"], settings: dict[str, Any]) -> nn.Module:
    width, headdim, state = (settings[key] for key in ("width", "headdim", "state"))
    if name == OURS:
        return Mamba2(width, d_state=state, headdim=headdim, checkpointing=settings["checkpointing"])
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=width, state_size=state, head_dim=headdim, num_heads=2 * width // headdim, n_groups=1, expand=2,
        num_hidden_layers=1, vocab_size=8,
    )  # fmt: skip
    return Mamba2Mixer(config, layer_idx=0)


def _measure(name: Any, settings: dict[str, Any]) -> dict[str, float]:
    """Measure one pass, after a short one that loads what is loaded lazily; called in a new process."""
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    block, watch = _block(name, settings), Stopwatch()
    u = torch.randn(1, settings["length"], settings["width"], requires_grad=True)
    block(u[:, :64]).sum().backward()

    def run() -> None:
        with watch:
            block(u).square().mean().backward()

    peak = peak_memory(run, torch.device("cpu"))
    return {"cpu_s": watch.cpu_seconds, "wall_s": watch.seconds, "peak_mb": peak / 1e6}


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], json.loads(sys.argv[2]))))
