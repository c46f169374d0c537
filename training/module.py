"""The one LightningModule: any compressor in front of a frozen host, or of one whose language model gets LoRA.

Checkpoints hold the compressor, and LoRA if there is any, alone. The constructor's signature is the ``model:`` section
of a configuration.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.hooks.init_from_host import init_from_host
from framefold.data.loading.loader import Batch
from framefold.errors import AdapterFileError, ConfigError
from framefold.training.checkpoint.read import is_trained, renamed
from framefold.training.frozen_host.ask import EncodedBatch, answer_questions, encode_batch, visual_tokens
from framefold.training.frozen_host.data_check import check_data
from framefold.training.frozen_host.load import Precision, load_host
from framefold.training.frozen_host.question_rows import answer_loss, predict
from framefold.training.strategies.deepspeed import keep_compressor_gathered, prepare_module
from framefold.training.strategies.fsdp2 import is_spread

from .datamodule import sets_of
from .lora import HostLora
from .lora_settings import LoraSettings
from .losses import check_weights, loss_parts, shares, total_loss, touch
from .metrics import TypeAccuracy
from .sample_rng import SampleRng, seeded_generators
from .start import begin, check_host

Budget = int | float | Literal["auto"]  # in this order: the command line tries types from the left

PREFIX, LORA_PREFIX = "compressor.", "lora."


class CompressorModule(pl.LightningModule):
    """Trains and validates a compressor on the answers of a frozen host.

    Args:
        compressor: registered name, or the class path of one of your own.
        budget: retention ratio (float in (0, 1]) or tokens per video (int); what exported adapters start with.
        params: the compressor's own parameters.
        host: folder of the host, or its id in the cache of the Hub.
        train_budgets: one of these is drawn for each step, the same on all ranks; None: always ``budget``.
        val_budgets: budgets to validate at; None: ``budget``.
        lr: peak learning rate of AdamW. weight_decay: on weights of two or more dimensions.
        warmup: share of the steps over which the rate rises; then it falls along a cosine to ``lr * lr_end``.
        losses: weights by name: "answer" is the cross-entropy; "kl", "attention" and "evidence" distil and are off
            by default, see :mod:`~framefold.training.losses`; the others are the compressor's own. 1 by default.
        start: adapter folder to go on from: the same compressor, with the params of the adapter where they are not
            given, and its LoRA. None: a fresh compressor.
        lora: trains LoRA on the language model of the host as well, see
            :class:`~framefold.training.lora_settings.LoraSettings`; None: none, or that of the start. Teachers of the
            losses stay without it.
        init_from_host: a fresh compressor starts from the decoder layers of the host, where it can (qtsplus).
        host_revision: of a host from the Hub. host_dtype: of its weights; "auto" is what they were saved in.
        host_frames: most frames of a video that the host is shown, taken evenly; None: all. Features are what they are.

    Raises:
        UnknownCompressorError, ConfigError, BudgetError: a wrong name, parameter or budget, or not that of the start.
        AdapterFileError, HostError, MissingExtraError: a damaged start, no such host, LoRA without PEFT.
    """

    def __init__(
        self,
        compressor: str = "fila",
        budget: Budget = 0.1,
        params: dict[str, Any] | None = None,
        host: str = "checkpoints/tinyhost",
        train_budgets: list[Budget] | None = None,
        val_budgets: list[Budget] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.05,
        lr_end: float = 0.05,
        losses: dict[str, float] | None = None,
        start: str | None = None,
        lora: LoraSettings | None = None,
        init_from_host: bool = False,
        host_revision: str | None = None,
        host_dtype: Precision = "auto",
        host_frames: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if init_from_host and start is not None:
            raise ConfigError("init_from_host is for a fresh compressor: drop it, or start")
        self.strict_loading = False  # checkpoints lack the host; on_load_checkpoint compares the rest itself
        self.begun = begin(compressor, budget, params, lora, start)
        self.compressor = self.begun.compressor
        self.hparams["lora"] = asdict(self.begun.settings) if self.begun.settings else None
        if not 0 <= warmup < 1 or lr <= 0:
            raise ConfigError(f"lr must be positive and warmup in [0, 1), got {lr} and {warmup}")
        self.train_budgets = [self._check_budget(b) for b in train_budgets or [budget]]
        self.val_budgets = [self._check_budget(b) for b in val_budgets or [budget]]
        self.weights = check_weights(losses or {}, self.compressor.query_aware)
        self.accuracy: Any = torch.nn.ModuleList(TypeAccuracy() for _ in self.val_budgets)
        self.tokens_seen = 0  # visual tokens of training videos before compression; who reads it sets it back
        self.model: Any = None
        self.lora: HostLora | None = None
        self.found = check_host(host, host_revision, host_frames)

    def setup(self, stage: str) -> None:
        """Before :meth:`configure_model`, so that ZeRO-3 does not shard the host while it is being loaded."""
        self.configure_model()
        check_data(self.host, sets_of(self.trainer, stage))
        prepare_module(self)

    def configure_model(self) -> None:
        """Load the host and size the compressor by it, before the optimizer is made."""
        if self.model is not None:
            return
        self.host = load_host(self.found, dtype=self.hparams["host_dtype"], frames=self.hparams["host_frames"])
        self.model = self.host.model
        width = self.model.config.get_text_config().hidden_size
        self.compressor.materialize(width, family_of(self.model).grid(self.model))
        if self.hparams["init_from_host"]:
            init_from_host(self.compressor, self.model)
        self.hparams["params"] = self.compressor.params()  # with the widths, so that export needs no host
        self.lora = self.begun.tune(self.host, str(self.found.folder))
        if self.lora is not None:
            self.train(self.training)

    def train(self, mode: bool = True) -> CompressorModule:
        """The compressor and LoRA's dropout change mode, the host stays in eval mode."""
        super().train(mode)
        if self.model is not None:
            self.model.eval()
        if self.lora is not None:
            self.lora.train(mode)
        return self

    def on_fit_start(self) -> None:
        """When the strategy has taken hold of the weights."""
        keep_compressor_gathered(self)

    on_validation_start = on_fit_start  # of 'framefold validate'

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch at this step's budget."""
        self.compressor.budget = self.draw_budget(self.global_step)
        asked = encode_batch(self.host, batch.samples, self.compressor.needs_attention)
        self.tokens_seen += sum(map(len, asked.encoded))
        drawn = SampleRng(self.compressor, batch.samples, (_seed(), self.global_step))
        with self._drawn(batch_idx):
            answered = answer_questions(self.host, drawn, asked)
        self.compressor.budget = self.hparams["budget"]
        parts = loss_parts(self.host, asked, answered, self.weights)
        factors = shares(asked, answered, parts, self.weights, self._add_up, self.trainer.world_size)
        balanced = {name: value * factors.get(name, 1.0) for name, value in parts.items()}
        total = total_loss(balanced, self.weights) + touch(self)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=len(batch))
        self.log("train/visual_tokens", visual_tokens(self.host, answered.prepared), batch_size=len(batch))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        return total * self._accumulated_twice()

    def on_before_backward(self, loss: Tensor) -> None:
        """Let DeepSpeed, which counts micro-batches through the end of an epoch, step where Lightning does."""
        if (engine := getattr(self.trainer.strategy, "deepspeed_engine", None)) is not None:
            engine.set_gradient_accumulation_boundary(not self.trainer.fit_loop._should_accumulate())

    def on_train_batch_end(self, *args: Any) -> None:
        """Let the compressor bring its statistics together, in step on all ranks."""
        self.compressor.synchronize()

    def _check_budget(self, budget: Any) -> Any:
        before = self.compressor.budget
        self.compressor.budget = budget
        checked, self.compressor.budget = self.compressor.budget, before
        return checked

    def _add_up(self, counts: Tensor) -> Tensor:
        """Sum over the ranks."""
        return self.trainer.strategy.reduce(counts, reduce_op="sum")

    def _accumulated_twice(self) -> int:
        """DeepSpeed divides the loss by the number of accumulated batches, after Lightning has done so."""
        deepspeed = getattr(self.trainer.strategy, "deepspeed_engine", None) is not None
        return self.trainer.accumulate_grad_batches if deepspeed else 1

    def draw_budget(self, step: int) -> Budget:
        """The training budget of a step: the same on every rank and after resuming."""
        return random.Random(step).choice(self.train_budgets)

    def _drawn(self, batch_idx: int) -> AbstractContextManager[None]:
        """LoRA's dropout is drawn by step and rank alone, so that a resumed run draws as one that went through."""
        key = _seed(), self.global_step, batch_idx, self.global_rank
        return nullcontext() if self.lora is None else seeded_generators(*key)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy of a batch at every validation budget; videos are encoded once."""
        asked = encode_batch(self.host, batch.samples, self.compressor.needs_attention)
        for budget, accuracy in zip(self.val_budgets, self.accuracy, strict=True):
            self._validate(asked, budget, accuracy, len(batch))
        self.compressor.budget = self.hparams["budget"]

    def _validate(self, asked: EncodedBatch, budget: Budget, accuracy: Any, videos: int) -> None:
        self.compressor.budget = budget
        logits, prepared, asked = answer_questions(self.host, self.compressor, asked)
        accuracy.update(predict(logits, asked.rows) == asked.rows.answers(), asked.types)
        common: dict[str, Any] = {"batch_size": videos, "sync_dist": True}
        self.log(f"val/loss@{_at(budget)}", answer_loss(logits, asked.rows), **common)
        self.log(f"val/visual_tokens@{_at(budget)}", visual_tokens(self.host, prepared), **common)

    def on_validation_epoch_end(self) -> None:
        """Log accuracies; ``val/accuracy`` is the mean over types and validation budgets."""
        macro = []
        for budget, accuracy in zip(self.val_budgets, self.accuracy, strict=True):
            scores = accuracy.compute()
            accuracy.reset()
            macro.append(scores.pop("accuracy"))
            self.log(f"val/accuracy@{_at(budget)}", macro[-1], sync_dist=True)
            self.log_dict({f"val/{name}@{_at(budget)}": score for name, score in scores.items()}, sync_dist=True)
        self.log("val/accuracy", torch.stack(macro).mean(), prog_bar=True, sync_dist=True)

    def validated(self) -> list[str]:
        """Names of all values that validation can log; accuracies are of the types that are asked."""
        names = "loss", "visual_tokens", "accuracy", *self.accuracy[0].types
        return ["val/accuracy", *(f"val/{name}@{_at(budget)}" for budget in self.val_budgets for name in names)]

    def configure_optimizers(self) -> Any:
        """AdamW over compressor and LoRA, each with its own rate, and one step-wise warm-up and cosine for both."""
        groups = self._groups(self.compressor.parameters(), self.hparams["lr"])
        if self.lora is not None:
            groups += self._groups(self.lora.parameters, self.lora.settings.lr)
        if not groups:
            raise ConfigError(f"{self.compressor.name} has nothing to train: 'framefold validate' measures it")
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self, parameters: Iterable[Any], lr: float) -> list[dict[str, Any]]:
        """Groups of an optimizer: weights of two or more dimensions decay, others do not."""
        trained = [p for p in parameters if p.requires_grad]
        decayed, others = ([p for p in trained if (p.ndim > 1) == many] for many in (True, False))
        groups = [{"params": decayed, "weight_decay": self.hparams["weight_decay"]}, {"params": others}]
        return [{**group, "lr": lr} for group in groups if group["params"]]

    def _rate(self, step: int) -> float:
        """Factor on the learning rate; constant after the warm-up where the number of steps is not known."""
        total = self.trainer.estimated_stepping_batches
        if not math.isfinite(total):
            return 1.0
        rise = max(1, round(self.hparams["warmup"] * total))
        if step < rise:
            return (step + 1) / rise
        end = self.hparams["lr_end"]
        done = min(1.0, (step - rise) / max(1, total - rise))
        return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the weights of compressor and LoRA only, and note the seed and where the training began."""
        checkpoint["seed"] = int(os.environ.get("PL_GLOBAL_SEED", 0))  # where seed_everything leaves it
        checkpoint["start"] = self.hparams["start"]
        checkpoint["hyper_parameters"]["start"] = None  # these weights need none
        state = checkpoint["state_dict"].items()
        checkpoint["state_dict"] = {renamed(name): value for name, value in state if is_trained(name)}
        if self.lora is not None:
            checkpoint["lora"] = self.lora.describe(str(self.found.folder))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with this compressor and its LoRA, and load the latter.

        Raises:
            AdapterFileError: it holds the weights of others.
        """
        self.configure_model()
        if "state_dict" not in checkpoint:  # DeepSpeed reads the weights itself
            return
        given, lora = checkpoint["state_dict"], {} if self.lora is None else self.lora.state()
        found = {k: tuple(v.shape) for k, v in given.items() if k.startswith((PREFIX, LORA_PREFIX))}
        wanted = {PREFIX + k: tuple(v.shape) for k, v in self.compressor.state_dict().items()}
        wanted |= {LORA_PREFIX + k: tuple(v.shape) for k, v in lora.items()}
        if found != wanted:
            saved, own = checkpoint.get("hyper_parameters", {}), self.compressor
            raise AdapterFileError(
                f"the checkpoint holds {saved.get('compressor')} with {saved.get('params')}, LoRA {saved.get('lora')}"
                f", which does not fit {own.name} with {own.params()}, LoRA {self.hparams['lora']}"
            )
        if self.lora is not None and not is_spread(self.model):  # FSDP2 does it itself
            self.lora.load({key: given[LORA_PREFIX + key] for key in lora})


def _seed() -> str | None:
    return os.environ.get("PL_GLOBAL_SEED")  # where seed_everything leaves it


def _at(budget: Budget) -> str:
    """How a budget is written in the names of metrics."""
    return budget if isinstance(budget, str) else f"{budget:g}"
