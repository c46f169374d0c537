"""A real training of a few steps that measures the memory and the time of its processes.

``python -m tests.support.plan.measured_fit SETTINGS.json`` writes one file per rank beside the settings.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from framefold.evaluation.metrics.tensor_ledger import TensorLedger
from framefold.training.datamodule import VideoData
from framefold.training.module import CompressorModule
from framefold.training.strategies.deepspeed import DeepSpeedOnCPU, configure_deepspeed, register_strategies

TINYHOST = Path("checkpoints/tinyhost")

BUCKET = 1_000_000  # of ZeRO here, since its usual one is larger than everything else

STEPS = 3  # the first one allocates what stays, in the second one tensors are counted, the third one is timed


class Recorder(pl.Callback):
    """Records the bytes of all tensors at the peak of the second step, its prompts, and the time of the third step."""

    def __init__(self) -> None:
        self.bytes, self.seconds, self.shapes = 0, 0.0, list[list[int]]()
        self._start = 0.0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            hook = module.model.register_forward_pre_hook(self._note, with_kwargs=True)
            gc.collect()
            there = {one.untyped_storage()._cdata: one for one in _tensors()}
            self.bytes = sum(one.untyped_storage().nbytes() for one in there.values())
            self._ledger, self._hook = TensorLedger(there.values()), hook
            self._ledger.__enter__()
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds = time.perf_counter() - self._start
        if batch_idx == 1:
            self._ledger.__exit__(None, None, None)
            self._hook.remove()
            self.bytes += self._ledger.peak

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.shapes.append(list(kwargs["input_ids"].shape))


def _tensors() -> list[torch.Tensor]:
    """Return all tensors of this process that have a storage."""
    found = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    return [one for one in found if one.device.type == "cpu" and one.layout == torch.strided and not _is_fake(one)]


def _is_fake(tensor: torch.Tensor) -> bool:
    return type(tensor) not in (torch.Tensor, torch.nn.Parameter)


def random_host(folder: Path, **text: Any) -> Path:
    """Write a host like tinyhost with other sizes of the language model and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in TINYHOST.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            (folder / file.name).write_bytes(file.read_bytes())
    config = AutoConfig.from_pretrained(TINYHOST)
    for name, value in text.items():
        setattr(config.get_text_config(), name, value)
    if "num_hidden_layers" in text:
        config.get_text_config().layer_types = ["full_attention"] * text["num_hidden_layers"]
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return folder


def measure(chosen: dict[str, Any]) -> dict[str, Any]:
    """Train for a few steps.

    Returns:
        ``bytes`` of this rank at the peak, ``seconds`` of a step, and the shapes of its prompts and question rows.
    """
    torch.manual_seed(0)
    recorder, strategy = Recorder(), chosen.get("strategy", "auto")
    if strategy.startswith("deepspeed"):
        size = dict(reduce_bucket_size=BUCKET, allgather_bucket_size=BUCKET)
        strategy = DeepSpeedOnCPU(stage=int(strategy[-1]), process_group_backend="gloo", **size)
        configure_deepspeed(strategy, chosen["batch"])
    data = VideoData(frames=[chosen["frames"]] * 2, batch_size=chosen["batch"], workers=0, videos=64)
    trainer = pl.Trainer(
        accelerator="cpu", devices=chosen.get("devices", 1), strategy=strategy, max_steps=STEPS, limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        precision=chosen["precision"], callbacks=[recorder],
    )  # fmt: skip
    model = chosen.get("model", {})
    module = CompressorModule(chosen["compressor"], budget=chosen["budget"], host=chosen["host"], **model)
    trainer.fit(module, datamodule=data)
    prompt, rows = recorder.shapes
    return {"bytes": recorder.bytes, "seconds": recorder.seconds, "prompt": prompt, "rows": rows}


def main(settings: Path) -> None:
    """Train as the settings say, and write what this rank needed."""
    register_strategies()
    found = measure(json.loads(settings.read_text()))
    settings.with_name(f"rank-{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
