"""LightningModule that trains any compressor with a frozen host, optionally with LoRA in the host's language model.

Checkpoints hold only the compressor and LoRA. The signature of :class:`CompressorModule` is the ``model:`` section of a
configuration.
"""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from framefold.adapters.core.gradients import zero_times_parameters
from framefold.adapters.core.registry import foreign_classes
from framefold.adapters.hosts.hooks.init_from_host import init_from_host
from framefold.adapters.hosts.hooks.key_bias import check_takes_bias
from framefold.adapters.hosts.hooks.layer_hooks import install_layer_hooks
from framefold.adapters.pretrained.saveable import check_saveable
from framefold.data.loading.loader import Batch
from framefold.errors import ConfigError
from framefold.training.checkpoint.module_state import read_module, write_module
from framefold.training.frozen_host.batch import EncodedBatch, answer_questions, mean_visual_tokens
from framefold.training.frozen_host.data_check import check_data
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import answer_loss, predict, writes_answer
from framefold.training.memory.checkpointing import checkpoint_layers
from framefold.training.memory.host_weights import HostAttention, HostBits, HostDtype, HostWeights
from framefold.training.strategies.deepspeed import exclude_from_zero3, prepare_module
from framefold.training.strategies.fsdp2 import is_sharded

from .accepted_samples import encode_accepted
from .budgets import budget_label, check_budgets, check_ratios_in_llm
from .datamodule import data_sources
from .lora import HostLora
from .lora_settings import LoraSettings
from .losses import (
    compute_losses,
    document_losses,
    global_mean_factors,
    needs_logits,
    total_loss,
    validate_loss_weights,
)
from .metrics import TypeAccuracy
from .optimizer import LossWeight, parameter_groups, total_steps, warmup_cosine, weights_at
from .sample_rng import SampleRng, run_seed, seeded_generators
from .start import check_host, resolve_start, run_device
from .teacher import TeacherAttention, resolve_teacher

TrainingBudget = int | float | Literal["auto"]  # in this order: the command line tries types from the left


@document_losses
class CompressorModule(pl.LightningModule):
    """Trains and validates a compressor on the answers of a frozen host.

    Args:
        compressor: registered name, or the class path of a compressor.
        budget: retention ratio (float in (0, 1]) or tokens per video (int); the default budget of exported adapters.
        params: parameters of the compressor.
        host: folder of the host, or its id on the Hub, if it has been downloaded (hf download).
        train_budgets: each step selects one of these at random, the same on all ranks; by default always ``budget``.
        val_budgets: budgets to validate at; by default ``budget``.
        lr: peak learning rate of AdamW.
        weight_decay: of parameters with two or more dimensions.
        warmup: fraction of the steps over which the rate rises; then it falls along a cosine to ``lr * lr_end``.
        lr_end: last learning rate, as a fraction of the peak.
        losses: weights by name, 0 unless noted; losses of the compressor itself have weight 1 by default. Two numbers
            are the weights at the start and at the end of the run. {losses}.
        teacher: which attention of the host the losses "attention" and "rank" read, see
            :class:`~framefold.training.teacher.TeacherAttention`; by default the mean of all layers and heads.
        start: adapter folder to start from; params that are not given, and LoRA, are those of the adapter. By default
            the compressor is initialised.
        lora: settings of LoRA in the language model of the host, see
            :class:`~framefold.training.lora_settings.LoraSettings`; by default there is none, or that of ``start``.
            Teachers of the losses never have LoRA.
        init_from_host: initialise a fresh compressor from the decoder layers of the host, if its method supports it.
        host_revision: of a host from the Hub.
        host_dtype: of the host's weights; "auto" is bfloat16 on GPUs, and the dtype that they are saved in elsewhere.
        host_frames: maximum number of frames of a video that the host encodes, evenly spaced; by default all. Stored
            features are not affected.
        checkpointing: keep only the input of each decoder layer of the host, and its keys and values where questions
            continue a video, and compute everything else again in the backward pass. Gradients are the same.
        vision_chunk: number of frames that the vision encoder of the host takes at once, so that its memory does not
            grow with the length of a video; by default all. Features are the same.
        attention: implementation of the host's attention; by default that of transformers, usually sdpa.
        host_bits: 4 keeps the language model of the host in 4 bits, through bitsandbytes; for GPUs, and not for
            strategies that shard the host.

    Raises:
        UnknownCompressorError, ConfigError, BudgetError: A name, parameter or budget is wrong, or does not agree with
            the start.
        AdapterFileError, HostError, MissingExtraError: A damaged start, no such host, or LoRA without PEFT.
    """

    def __init__(
        self,
        compressor: str = "fila",
        budget: TrainingBudget = 0.1,
        params: dict[str, Any] | None = None,
        host: str = "checkpoints/tinyhost",
        train_budgets: list[TrainingBudget] | None = None,
        val_budgets: list[TrainingBudget] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        warmup: float = 0.05,
        lr_end: float = 0.05,
        losses: dict[str, LossWeight] | None = None,
        teacher: TeacherAttention | None = None,
        start: str | None = None,
        lora: LoraSettings | None = None,
        init_from_host: bool = False,
        host_revision: str | None = None,
        host_dtype: HostDtype = "auto",
        host_frames: int | None = None,
        checkpointing: bool = False,
        vision_chunk: int | None = None,
        attention: HostAttention | None = None,
        host_bits: HostBits | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if init_from_host and start is not None:
            raise ConfigError("init_from_host is for a fresh compressor: drop it, or start")
        if init_from_host and host_bits is not None:
            raise ConfigError("init_from_host reads weights that host_bits replaces by 4 bits: drop one of them")
        self.weights = HostWeights(host_dtype, attention, host_bits)
        self.strict_loading = False  # checkpoints lack the host; on_load_checkpoint compares the other weights
        self.start = resolve_start(compressor, budget, params, lora, start)
        self.compressor = self.start.compressor
        self.hparams["compressor"] = getattr(self.compressor, "name", compressor)  # not the class path that was given
        self.hparams["lora"] = asdict(self.start.settings) if self.start.settings else None
        self.teacher = resolve_teacher(teacher)
        self.hparams["teacher"] = asdict(self.teacher) if teacher else None
        if not 0 <= warmup < 1 or lr <= 0:
            raise ConfigError(f"lr must be positive and warmup in [0, 1), got {lr} and {warmup}")
        self.train_budgets = check_budgets(self.compressor, train_budgets or [budget])
        self.val_budgets = check_budgets(self.compressor, val_budgets or [budget])
        self.loss_weights = validate_loss_weights(losses or {}, self.compressor.returns_scores)
        self.accuracy: Any = torch.nn.ModuleList(TypeAccuracy() for _ in self.val_budgets)
        self.tokens_seen = 0  # visual tokens of training videos before compression; readers reset it
        self.model: Any = None
        self.lora: HostLora | None = None
        self.host_folder = check_host(host, host_revision, host_frames, vision_chunk)

    def setup(self, stage: str) -> None:
        """Load the host here, before :meth:`configure_model`, in which ZeRO-3 would shard it while it loads."""
        self.configure_model()
        if stage == "fit":  # before the first step, rather than when the trained weights are exported
            check_saveable(self.compressor, self.model)
        check_ratios_in_llm(self.compressor, self.host, [*self.train_budgets, *self.val_budgets])
        check_data(self.host, data_sources(self.trainer, stage))
        prepare_module(self)

    def configure_model(self) -> None:
        """Load the host and create the weights whose shapes depend on it, before the optimizer is created."""
        if self.model is not None:
            return
        frames, chunk = self.hparams["host_frames"], self.hparams["vision_chunk"]
        device = run_device(self._trainer, self.weights)
        self.host = load_host(self.host_folder, frames=frames, vision_chunk=chunk, weights=self.weights, device=device)
        self.model = self.host.model
        self.teacher.check_layers(len(self.host.family.decoder_layers(self.model)))
        self.host.family.create_parameters(self.compressor, self.model)
        if self.compressor.biases_keys:
            check_takes_bias(self.host.family.language_model(self.model).config)
        install_layer_hooks(self.model, self.compressor.in_llm)  # not only for each forward: layers may be recomputed
        if self.hparams["checkpointing"]:
            checkpoint_layers(self.model)
        if self.hparams["init_from_host"]:
            init_from_host(self.compressor, self.model)
        self.hparams["params"] = self.compressor.params()  # includes the widths, so that export needs no host
        self.lora = self.start.inject_lora(self.host, str(self.host_folder.folder))
        if self.lora is not None:
            self.train(self.training)

    def train(self, mode: bool = True) -> CompressorModule:
        """Set the mode of the compressor and of LoRA's dropout; the host stays in eval mode."""
        super().train(mode)
        if self.model is not None:
            self.model.eval()
        if self.lora is not None:
            self.lora.train(mode)
        return self

    def on_fit_start(self) -> None:
        exclude_from_zero3(self)

    on_validation_start = on_fit_start  # for 'framefold validate'

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch at the budget of this step."""
        self.compressor.budget = self.training_budget(self.global_step)
        needs_attention, loader = self.compressor.needs_attention, self.trainer.train_dataloader
        encoded, samples = encode_accepted(self.host, batch, loader, needs_attention)
        self.tokens_seen += sum(map(len, encoded.encoded))
        seeded = SampleRng(self.compressor, samples, (run_seed(), self.global_step))
        weights = weights_at(self.loss_weights, self.global_step / total_steps(self.trainer))
        logits = needs_logits(weights) or self.lora is not None or self.compressor.in_llm is not None
        with self._lora_rng(batch_idx):
            answers = answer_questions(self.host, seeded, encoded, logits)
        self.compressor.budget = self.hparams["budget"]
        parts = compute_losses(self.host, encoded, answers, weights, self.teacher)
        factors = global_mean_factors(answers, parts, weights, self._sum_over_ranks, self.trainer.world_size)
        balanced = {name: value * factors.get(name, 1.0) for name, value in parts.items()}
        total = total_loss(balanced, weights) + zero_times_parameters(self)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()}, batch_size=len(samples))
        self.log("train/visual_tokens", mean_visual_tokens(self.host, answers.prepared), batch_size=len(samples))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(samples))
        return total * self._accumulation_factor()

    def on_before_backward(self, loss: Tensor) -> None:
        """Let DeepSpeed step when Lightning does; its own count of micro-batches continues across epochs."""
        if (engine := getattr(self.trainer.strategy, "deepspeed_engine", None)) is not None:
            engine.set_gradient_accumulation_boundary(not self.trainer.fit_loop._should_accumulate())

    def on_train_batch_end(self, *args: Any) -> None:
        """Let the compressor synchronise its statistics over the ranks."""
        self.compressor.synchronize()

    def _sum_over_ranks(self, counts: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(counts, reduce_op="sum")

    def _accumulation_factor(self) -> int:
        """Return the factor that undoes DeepSpeed's division by the accumulated batches, which Lightning has done."""
        deepspeed = getattr(self.trainer.strategy, "deepspeed_engine", None) is not None
        return self.trainer.accumulate_grad_batches if deepspeed else 1

    def training_budget(self, step: int) -> TrainingBudget:
        """Return the budget of a step, the same on every rank and after resuming."""
        return random.Random(step).choice(self.train_budgets)

    def _lora_rng(self, batch_idx: int) -> AbstractContextManager[None]:
        """Seed LoRA's dropout by step and rank, so that a resumed run equals an uninterrupted one."""
        key = run_seed(), self.global_step, batch_idx, self.global_rank
        return nullcontext() if self.lora is None else seeded_generators(*key)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log loss and accuracy of a batch at every validation budget; videos are encoded once."""
        needs_attention, loader = self.compressor.needs_attention, self.trainer.val_dataloaders
        encoded, samples = encode_accepted(self.host, batch, loader, needs_attention)
        for budget, accuracy in zip(self.val_budgets, self.accuracy, strict=True):
            self._validate(encoded, budget, accuracy, len(samples))
        self.compressor.budget = self.hparams["budget"]

    def _validate(self, encoded: EncodedBatch, budget: TrainingBudget, accuracy: Any, videos: int) -> None:
        self.compressor.budget = budget
        logits, prepared, batch = answer_questions(self.host, self.compressor, encoded)
        first = predict(logits, batch.rows) == batch.rows.answers()
        accuracy.update(first, writes_answer(logits, batch.rows), batch.types)
        common: dict[str, Any] = {"batch_size": videos, "sync_dist": True}
        self.log(f"val/loss@{budget_label(budget)}", answer_loss(logits, batch.rows), **common)
        self.log(f"val/visual_tokens@{budget_label(budget)}", mean_visual_tokens(self.host, prepared), **common)

    def on_validation_epoch_end(self) -> None:
        """Log accuracies; ``val/accuracy`` is the mean over types and validation budgets."""
        macro = []
        for budget, accuracy in zip(self.val_budgets, self.accuracy, strict=True):
            scores = accuracy.compute()
            accuracy.reset()
            macro.append(scores.pop("accuracy"))
            label = budget_label(budget)
            self.log(f"val/accuracy@{label}", macro[-1], sync_dist=True)
            self.log_dict({f"val/{name}@{label}": score for name, score in scores.items()}, sync_dist=True)
        self.log("val/accuracy", torch.stack(macro).mean(), prog_bar=True, sync_dist=True)

    def validation_metrics(self) -> list[str]:
        """Return the names of all values that validation may log; accuracies only of types that have questions."""
        names = "loss", "visual_tokens", "accuracy", "text_match", *self.accuracy[0].types
        return ["val/accuracy", *(f"val/{name}@{budget_label(b)}" for b in self.val_budgets for name in names)]

    def configure_optimizers(self) -> Any:
        """Return AdamW over compressor and LoRA, each with its own rate, and one step-wise schedule for both."""
        decay = self.hparams["weight_decay"]
        groups = parameter_groups(self.compressor.parameters(), self.hparams["lr"], decay)
        if self.lora is not None:
            groups += parameter_groups(self.lora.parameters, self.lora.settings.lr, decay)
        if not groups:
            raise ConfigError(f"{self.compressor.name} has nothing to train: 'framefold validate' measures it")
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _lr_factor(self, step: int) -> float:
        return warmup_cosine(step, total_steps(self.trainer), self.hparams["warmup"], self.hparams["lr_end"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what was trained, and what it needs."""
        write_module(self, checkpoint, int(run_seed() or 0), foreign_classes(type(self.compressor)))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with this module, and load the LoRA."""
        self.configure_model()
        self.hparams["start"] = self.hparams["start"] or checkpoint.get("start")  # for the record
        read_module(self, checkpoint, is_sharded(self.model))
