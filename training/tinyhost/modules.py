"""LightningModules of the tinyhost: the base of both stages, and the training of the language model."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

from framefold.training.frozen_host.question_rows import answer_loss, packed_logits, predict

from .batches import RawBatch, VideoBatch, encode_raw_batch, generate_batch, prefix_kwargs
from .build import grid_side
from .optimizer import HostOptimizer
from .stage import Stage


class HostTraining(pl.LightningModule):
    """Base of the modules of both kinds of stage.

    Batches depend only on seed, stage and step, so a resumed run sees the batches of an uninterrupted one.
    """

    def __init__(self, host: LlavaOnevisionForConditionalGeneration, stage: Stage, seed: int) -> None:
        super().__init__()
        self.host, self.stage, self.seed = host, stage, seed
        self.curve: list[dict[str, float]] = []

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that this stage trains, with their names."""
        raise NotImplementedError

    def batch_function(self) -> Callable[[int], Any]:
        """Return a picklable function from the number of a step to its batch, which does not need the host."""
        raise NotImplementedError

    def encode_batch(self, batch: Any) -> Any:
        """Return the argument of a step, from what the batch function returned; a thread may call it a step ahead."""
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch unchanged; the step moves tensors itself."""
        return batch

    def configure_optimizers(self) -> Any:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.trained_parameters():
            parameter.requires_grad_(True)
            inner = parameter.ndim == 2 and not any(part in name for part in ("embed", "probes"))
            (matrices if inner else others).append(parameter)
        optimizer = HostOptimizer(matrices, others, lr=self.stage.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_end(self) -> None:
        """Add a row to the training curve; checkpoints hold the rows, so a resumed run has the complete curve."""
        if len(self.curve) and self.global_step == self._first + 1:
            return  # Lightning ends the epoch of a resumed run after its first step
        means = {k.removeprefix("train/"): round(float(v), 4) for k, v in self.trainer.callback_metrics.items()}
        seconds = round(self._spent + process_time() - self._since)
        self.curve.append({"step": self.global_step, "cpu_seconds": seconds, **means})
        with (Path(self.trainer.default_root_dir) / "curve.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in self.curve for key in row)))
            writer.writeheader()
            writer.writerows(self.curve)

    def on_train_start(self) -> None:
        """Continue the count of CPU seconds from the checkpoint."""
        self._since, self._first = process_time(), self.global_step
        self._spent = self.curve[-1]["cpu_seconds"] if self.curve else 0.0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = checkpoint.get("curve", [])

    def _log(self, name: str, value: Tensor, count: int) -> None:
        in_bar = name in ("loss", "accuracy", "shape")
        self.log(f"train/{name}", value, on_step=False, on_epoch=True, prog_bar=in_bar, batch_size=max(1, count))

    def _lr_factor(self, step: int) -> float:
        left = 1 - step / self.stage.steps
        return min(1.0, (step + 1) / self.stage.warmup) * max(self.stage.final, left)


class LanguageTraining(HostTraining):
    """Trains the language model to answer from the visual tokens of a frozen tower, reduced by the stage's views."""

    def __init__(
        self,
        host: LlavaOnevisionForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        stage: Stage,
        seed: int,
    ) -> None:
        super().__init__(host, stage, seed)
        self.tokenizer = tokenizer

    def trained_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if "language_model" in name]

    def batch_function(self) -> Callable[[int], Any]:
        return partial(generate_batch, self.stage, self.seed, grid_side(self.host))

    def encode_batch(self, batch: RawBatch) -> VideoBatch:
        return encode_raw_batch(self.host, self.tokenizer, batch)

    def training_step(self, batch: VideoBatch, batch_idx: int) -> Tensor:
        logits = packed_logits(self.host, prefix_kwargs(batch), batch.rows)
        weights = _even_weights(batch.types).to(logits.device) if self.stage.even_types else None
        loss = answer_loss(logits, batch.rows, weights)
        self._log_accuracy(batch, predict(logits.detach(), batch.rows))
        self._log("loss", loss.detach(), 1)
        return loss

    def _log_accuracy(self, videos: VideoBatch, predicted: Tensor) -> None:
        correct = (predicted == videos.rows.answers()).float()
        for kind in sorted(set(videos.types)):
            rows = [i for i, other in enumerate(videos.types) if other == kind]
            self._log(kind, correct[rows].mean(), len(rows))
        self._log("accuracy", correct.mean(), len(correct))


def _even_weights(types: tuple[str, ...]) -> Tensor:
    """Return (R,) weights of rows of which those of each type sum to one."""
    count = Counter(types)
    return torch.tensor([1 / count[kind] for kind in types])
