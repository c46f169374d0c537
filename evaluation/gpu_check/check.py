"""What no test without a GPU can measure, within eight minutes: ``make gpu-check``.

``python -m framefold.evaluation.gpu_check.check --rehearsal`` runs every part in tiny sizes on the CPU. A part that
fails or does not fit into the time is named in the result, and the others still run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from framefold.adapters.layers.mamba2 import Mamba2
from framefold.evaluation.bench.attach import bench_attach
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.files import write_json
from framefold.version import __version__

from .throughput import measure_throughput
from .training_step import measure_step

SECONDS = 480.0  # of all parts together

Part = dict[str, Any]


def check(out: Path, rehearsal: bool = False, limit: float = SECONDS) -> Part:
    """Run all parts and write ``gpu_check.json`` and ``gpu_check.md``.

    Args:
        out: folder to write.
        rehearsal: tiny sizes on the CPU.
        limit: seconds after which no further part starts.

    Returns:
        What was written: by part its measurements, ``error`` or ``left_out``, and ``seconds``.
    """
    begin = time.monotonic()
    parts: dict[str, Part] = {}
    for name, run in _parts(rehearsal).items():
        if time.monotonic() - begin > limit:
            parts[name] = {"left_out": f"no time was left of {limit:g} s"}
            continue
        start = time.monotonic()
        try:
            parts[name] = run()
        except Exception as error:  # one part must not end the others, whatever a GPU or a driver raises
            parts[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        parts[name]["seconds"] = round(time.monotonic() - start, 1)
        print(f"gpu-check: {name}: {json.dumps(parts[name])}", flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    result = {"machine": _machine(rehearsal), "parts": parts}
    write_json(out / "gpu_check.json", result)
    (out / "gpu_check.md").write_text(check_table(result))
    print(f"gpu-check: wrote {out / 'gpu_check.json'}")
    return result


def _parts(rehearsal: bool) -> dict[str, Callable[[], Part]]:
    dtype: Any
    device, dtype = ("cpu", "float32") if rehearsal else ("cuda", "bfloat16")
    size: Any = "small" if rehearsal else "7b"
    frames, side, repeats = (2, 2, 1) if rehearsal else (64, 14, 3)  # 64 * 14 * 14 = 12,544 visual tokens
    layers = 1 if rehearsal else None

    def prefill(family: Any, attention: Any) -> Callable[[], Part]:
        if attention != "sdpa" and importlib.util.find_spec("flash_attn") is None:
            return lambda: {"left_out": "flash_attn is not installed"}
        return lambda: dict(
            bench_attach(
                size, family, frames, side, "st_simdiff", [0.25, 0.1], None, layers, repeats, device, dtype, attention
            )
        )

    return {
        "products": lambda: dict(zip(("tflops", "bandwidth"), _rates(device, dtype, rehearsal), strict=True)),
        "mamba": lambda: _mamba(device),
        "prefill qwen2_5_vl": prefill("qwen2_5_vl", "sdpa"),
        "prefill qwen2_5_vl, FlashAttention": prefill("qwen2_5_vl", "flash_attention_2"),
        "prefill qwen3_vl": prefill("qwen3_vl", "sdpa"),
        "requests": lambda: measure_throughput(rehearsal, device, dtype),
        "training step against plan": lambda: measure_step(rehearsal, device, *_rates(device, dtype, rehearsal)),
        "ZeRO-2": (lambda: {"left_out": "ZeRO-2 of the trainer needs a GPU"}) if rehearsal else _zero_2,
    }


def _rates(device: str, dtype: str, rehearsal: bool) -> tuple[float, float]:
    """Return the rates of matrix products and of memory, ``tflops`` and ``bandwidth`` of ``framefold plan``."""
    kind, side = getattr(torch, dtype), 256 if rehearsal else 8192
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    rates, moved = [], []
    for turn in range(6):
        with Stopwatch(a.device) as products:
            a @ b
        with Stopwatch(a.device) as copy:
            a.clone()
        if turn:
            rates.append(2 * side**3 / products.seconds / 1e12)
            moved.append(2 * a.nbytes / copy.seconds / 1e9)
    return max(rates), max(moved)


def _mamba(device: str) -> Part:
    """Compare framefold's scan with the kernels of mamba-ssm, which ``storm`` uses where they are installed."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return {"left_out": "mamba_ssm is not installed"}
    torch.manual_seed(0)
    block = Mamba2(256).to(device)
    x = torch.randn(1, 4096, 256, device=device)
    with torch.no_grad(), Stopwatch(x.device) as watch:
        out = block(x)
    return {"milliseconds": 1000 * watch.seconds, "finite": bool(out.isfinite().all())}


def _zero_2() -> Part:
    """Train a small host for 20 steps with DeepSpeed on the GPU, as the guides do."""
    with tempfile.TemporaryDirectory() as folder:
        words = (
            "fit --config compressor/fila --config data/synthetic --config trainer/deepspeed --trainer.devices 1"
            f" --trainer.max_steps 20 --trainer.limit_val_batches 0 --trainer.default_root_dir {folder}"
        ).split()
        start = time.monotonic()
        run = subprocess.run(
            [sys.executable, "-m", "framefold", *words], capture_output=True, text=True, timeout=150, check=False
        )
        text = (run.stdout + run.stderr).strip()
        return {"exit": run.returncode, "run_s": time.monotonic() - start, "last_line": text.splitlines()[-1:]}


def _machine(rehearsal: bool) -> Part:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() and not rehearsal else None
    return {"gpu": gpu, "rehearsal": rehearsal, "torch": torch.__version__, "framefold": __version__}


def check_table(result: Part) -> str:
    """Return a result as a Markdown table with a row for each measurement."""
    lines = [f"gpu-check on {result['machine']['gpu'] or 'the CPU (rehearsal)'}", "", "| part | measurement | value |"]
    lines.append("|---|---|---|")
    for name, part in result["parts"].items():
        for key, value in part.items():
            rows = value.items() if isinstance(value, dict) else [("", value)]
            for inner, one in rows:
                shown = f"{one:.4g}" if isinstance(one, float) else one
                lines.append(f"| {name} | {' '.join(filter(None, (key, inner)))} | {shown} |")
    return "\n".join(lines) + "\n"


def main(words: list[str] | None = None) -> int:
    """Run the check, and return 1 if a part has failed."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"))
    parser.add_argument("--rehearsal", action="store_true", help="tiny sizes on the CPU")
    chosen = parser.parse_args(words)
    if not chosen.rehearsal and not torch.cuda.is_available():
        print("gpu-check: torch finds no GPU here; --rehearsal runs tiny sizes on the CPU", file=sys.stderr)
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    result = check(chosen.out, chosen.rehearsal)
    return int(any("error" in part for part in result["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
