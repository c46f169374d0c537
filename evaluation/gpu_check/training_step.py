"""A training step with random weights on a device: its time and peak memory against ``framefold plan``."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from typing import Any

import torch

from framefold.adapters.base.build import build
from framefold.adapters.core.gradients import zero_times_parameters
from framefold.adapters.hosts.prompt.vision import encode
from framefold.evaluation.bench.attach import SIZES, random_host
from framefold.evaluation.metrics.memory import peak_memory
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.evaluation.plan.empty_host import empty_sample, one_word_tokenizer
from framefold.evaluation.plan.predict import STAYING, Setup, predict_needs
from framefold.evaluation.plan.workload import Workload
from framefold.training.frozen_host.batch import answer_questions, collate_encoded
from framefold.training.frozen_host.host import Host
from framefold.training.losses import compute_losses, total_loss
from framefold.training.memory.checkpointing import checkpoint_layers
from framefold.training.optimizer import parameter_groups

COMPRESSOR, BUDGET, TURNS = "qtsplus", 0.25, 3


def measure_step(rehearsal: bool, device: str, tflops: float, bandwidth: float) -> dict[str, Any]:
    """Train for a few steps on a video of 64 frames, with checkpointing, and compare with the prediction.

    Args:
        rehearsal: tiny sizes.
        device: cpu or cuda.
        tflops: measured rate of matrix products.
        bandwidth: measured rate of memory.

    Returns:
        ``step_s``, ``planned_s`` (lower and upper end), and on CUDA ``peak_gb`` and ``planned_gb``, without weights.
    """
    size, layers = ("small", 2) if rehearsal else ("7b", SIZES["7b"]["qwen2_5_vl"][0][1])
    dtype = "float32" if rehearsal else "bfloat16"
    model = random_host(SIZES[size]["qwen2_5_vl"], "qwen2_5_vl", layers, device, dtype, "sdpa", 0)
    work = Workload(4, 56, 56, precision="32-true") if rehearsal else Workload(64, 392, 392)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        setup = Setup(folder, COMPRESSOR, BUDGET, None, None, work, "single", 1, dtype, None, "sdpa", True)
        planned = predict_needs(setup, tflops, bandwidth)
    checkpoint_layers(model)
    step = _Step(model, work)
    step()  # the optimizer has its state from here on
    peak = peak_memory(step, model.device) if model.device.type == "cuda" else None
    seconds = []
    for _ in range(TURNS):
        with Stopwatch(model.device) as watch:
            step()
        seconds.append(watch.seconds)
    changing = sum(size for part, size in planned.memory.items() if part not in STAYING)
    found: dict[str, Any] = {"step_s": statistics.median(seconds), "planned_s": planned.seconds}
    return found if peak is None else {**found, "peak_gb": peak / 1e9, "planned_gb": changing / 1e9}


class _Step:
    """One training step of a fresh compressor in a frozen host, as ``framefold plan`` predicts it."""

    def __init__(self, model: Any, work: Workload) -> None:
        self.host, self.work = Host(model, one_word_tokenizer()), work
        self.compressor = build(COMPRESSOR, BUDGET)
        self.host.family.create_parameters(self.compressor, model, model.device)
        self.compressor.to(model.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.compressor.parameters(), 1e-4, 0.0))

    def __call__(self) -> None:
        model, work = self.host.model, self.work
        inputs = self.host.family.blank_video(model, work.frames, work.height, work.width)
        pixels = torch.randn(inputs[self.host.family.pixels].shape)
        inputs = {**inputs, self.host.family.pixels: pixels.to(model.dtype), "input_ids": torch.zeros(1, 1).long()}
        (clip,) = encode(model, {name: value.to(model.device) for name, value in inputs.items()})
        sample = empty_sample(self.host, replace(work, batch=1), clip)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=work.precision == "bf16-mixed"):
            batch = collate_encoded(self.host, [sample])
            answers = answer_questions(self.host, self.compressor, batch)
            loss = total_loss(compute_losses(self.host, batch, answers, {}), {})
            loss = loss + zero_times_parameters(self.compressor)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
