"""Lightning modules of the host: the vision tower trained on single frames, the language model on videos."""

from __future__ import annotations

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerBase

from framefold.data.synthetic.render import COLORS, SHAPES, TEXTURES
from framefold.training.frozen_host.question_rows import answer_loss, packed_logits, predict

from .batches import DrawnVideos, VideoBatch, draw_videos, prefix_of, video_batch
from .build import grid_side
from .frames import IGNORE, PROBES, frame_batch
from .optimizer import HostOptimizer
from .stage import Stage

WORDS: dict[str, tuple[str, ...]] = {"shape": SHAPES, "color": tuple(COLORS), "texture": TEXTURES}

WEIGHTS = {"kind": 1.0, "shape": 1.0, "color": 1.0, "texture": 0.5, "row": 0.5, "column": 0.5}


class HostTraining(pl.LightningModule):
    """Batches are made from (seed, stage, step) by `draw`, so that a resumed run sees what an unbroken one would."""

    def __init__(self, host: LlavaOnevisionForConditionalGeneration, stage: Stage, seed: int) -> None:
        super().__init__()
        self.host, self.stage, self.seed = host, stage, seed
        self.curve: list[dict[str, float]] = []

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        raise NotImplementedError

    def draw(self) -> Callable[[int], Any]:
        """What makes the batch of a step out of its number, without the host: it may run in another process."""
        raise NotImplementedError

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """The step itself moves what it needs."""
        return batch

    def configure_optimizers(self) -> Any:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in self.trained():
            parameter.requires_grad_(True)
            inner = parameter.ndim == 2 and not any(part in name for part in ("embed", "probes"))
            (matrices if inner else others).append(parameter)
        optimizer = HostOptimizer(matrices, others, lr=self.stage.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_epoch_end(self) -> None:
        """One row of the training curve; rows travel in the checkpoint, so a resumed run has the whole curve."""
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
        """Process CPU time counts on from the checkpoint's."""
        self._since, self._first = process_time(), self.global_step
        self._spent = self.curve[-1]["cpu_seconds"] if self.curve else 0.0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["curve"] = self.curve

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.curve = checkpoint.get("curve", [])

    def _log(self, name: str, value: Tensor, count: int) -> None:
        shown = name in ("loss", "accuracy", "shape")
        self.log(f"train/{name}", value, on_step=False, on_epoch=True, prog_bar=shown, batch_size=max(1, count))

    def _rate(self, step: int) -> float:
        left = 1 - step / self.stage.steps
        return min(1.0, (step + 1) / self.stage.warmup) * max(self.stage.final, left)


class VisionTraining(HostTraining):
    """Tower and projector learn to say, at every token, what it shows and where it is.

    Shape, colour and texture are read out with the language model's own word embeddings, which are learned along: the
    language model then meets visual tokens that already speak its words. Kind and position have linear probes, thrown
    away afterwards.
    """

    def __init__(
        self,
        host: LlavaOnevisionForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        stage: Stage,
        seed: int,
    ) -> None:
        super().__init__(host, stage, seed)
        text: Any = host.config.text_config
        probed = {name: n for name, n in PROBES.items() if name not in WORDS}
        self.probes = nn.ModuleDict({name: nn.Linear(text.hidden_size, n) for name, n in probed.items()})
        for name, words in WORDS.items():
            self.register_buffer(f"{name}_ids", torch.tensor(tokenizer.convert_tokens_to_ids(list(words))))

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        kept = ("vision_tower", "multi_modal_projector", "embed_tokens", "probes")
        return [(name, p) for name, p in self.named_parameters() if any(part in name for part in kept)]

    def draw(self) -> Callable[[int], Any]:
        return partial(frame_batch, seed=self.seed, frames=self.stage.batch)

    def training_step(self, batch: tuple[np.ndarray, dict[str, np.ndarray]], batch_idx: int) -> Tensor:
        frames, labels = batch
        pixels = torch.from_numpy(frames).to(self.device).movedim(-1, 1).float() / 127.5 - 1
        tokens = self.host.get_video_features(pixels[None], return_dict=True).pooler_output[0, :-1].float()
        tokens = F.rms_norm(tokens, tokens.shape[-1:])
        loss = tokens.new_zeros(())
        for name, label in labels.items():
            target = torch.from_numpy(label).to(self.device).flatten()
            logits = self._read(name, tokens)
            loss = loss + WEIGHTS[name] * F.cross_entropy(logits, target, ignore_index=IGNORE)
            asked = target != IGNORE
            self._log(name, (logits.argmax(-1) == target)[asked].float().mean(), int(asked.sum()))
        self._log("loss", loss.detach(), 1)
        return loss

    def _read(self, name: str, tokens: Tensor) -> Tensor:
        if name not in WORDS:
            return self.probes[name](tokens)
        embeddings = self.host.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        return tokens @ embeddings.weight[getattr(self, f"{name}_ids")].T


class LanguageTraining(HostTraining):
    """The language model learns to answer from visual tokens of a frozen tower, full or reduced as the stage says."""

    def __init__(
        self,
        host: LlavaOnevisionForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        stage: Stage,
        seed: int,
    ) -> None:
        super().__init__(host, stage, seed)
        self.tokenizer = tokenizer

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.named_parameters() if "language_model" in name]

    def draw(self) -> Callable[[int], Any]:
        return partial(draw_videos, self.stage, self.seed, grid_side(self.host))

    def training_step(self, batch: DrawnVideos, batch_idx: int) -> Tensor:
        shown = video_batch(self.host, self.tokenizer, batch)
        logits = packed_logits(self.host, prefix_of(shown), shown.rows)
        loss = answer_loss(logits, shown.rows)
        self._log_accuracy(shown, predict(logits.detach(), shown.rows))
        self._log("loss", loss.detach(), 1)
        return loss

    def _log_accuracy(self, shown: VideoBatch, predicted: Tensor) -> None:
        right = (predicted == shown.rows.answers()).float()
        for kind in sorted(set(shown.types)):
            mine = [i for i, other in enumerate(shown.types) if other == kind]
            self._log(kind, right[mine].mean(), len(mine))
        self._log("accuracy", right.mean(), len(right))
