"""Training in front of a stage in the language model: Lightning, budgets, resuming, export, the teacher."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import framefold
from framefold.__main__ import main
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.hosts.hooks.layer_hooks import install_layer_hooks
from framefold.cli.export import export
from framefold.data.loading.loader import ResumableLoader
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import BudgetError
from framefold.training.checkpoint.read import trained_weights
from framefold.training.frozen_host.batch import answer_questions, encode_batch
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import IGNORE
from framefold.training.module import CompressorModule
from framefold.training.teacher import TeacherAttention, teacher_outputs
from tests.support.hosts.bare_hosts import perturb

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice
BUDGET = 0.4
CHAINS: dict[str, dict[str, Any]] = {
    "fila+fastv": {"fila": {"members": "cluster"}},  # pruned by attention: complete prompts
    "fila+at_layer": {"at_layer": {"layer": 14}},  # merged on input: one prefill for the questions of a video
    "storm+framefusion_in_llm": {"storm": {"layers": 1, "headdim": 8, "d_state": 8}},  # merged after attention
}


class FirstStep(pl.Callback):
    """Keeps samples, gradients and the tokens of the layers of the first step."""

    def __init__(self) -> None:
        self.samples: tuple[Any, ...] = ()
        self.gradients: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        self.samples = batch.samples

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}


def module_of(name: str, host: Path, **settings: Any) -> CompressorModule:
    """Return a module whose trained weights have been moved away from their initial values."""
    module = CompressorModule(name, BUDGET, CHAINS[name], str(host), **settings)
    module.configure_model()
    perturb(module.compressor)
    if module.lora is not None:
        perturb(torch.nn.ParameterList(module.lora.parameters))
    return module


def fit_one_step(module: CompressorModule, folder: Path) -> tuple[FirstStep, dict[str, float]]:
    first = FirstStep()
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=1, logger=False, enable_checkpointing=False, callbacks=[first],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, ResumableLoader(SyntheticStream(Recipe((16, 20)), 4, 2)))
    return first, {name: float(value) for name, value in trainer.callback_metrics.items()}


def complete_prompts(host: Any, sample: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments of an attached host for each question about a video, with its answer as labels."""
    batch, pixels = encode_batch(host, [sample]), host.pixel_values(sample.frames.numpy())
    for mask, words, labels in zip(
        batch.rows.attention_mask.bool(), batch.rows.input_ids, batch.rows.labels, strict=True
    ):
        prefix = batch.inputs["input_ids"][0]
        ids = torch.cat([prefix, words[mask]])[None]
        targets = torch.cat([torch.full_like(prefix, IGNORE), labels[mask]])[None]
        yield {"input_ids": ids, "labels": targets, "pixel_values_videos": pixels, "times": [sample.times]}


def plain_loss(host: Any, samples: tuple[Any, ...]) -> Tensor:
    """Return the mean loss over the answer tokens of all questions of an attached host."""
    losses, counts = [], []
    for inputs in (inputs for sample in samples for inputs in complete_prompts(host, sample)):
        losses.append(host.model(**inputs, use_cache=False).loss)
        counts.append(int((inputs["labels"] != IGNORE).sum()))
    return (torch.stack(losses) * torch.tensor(counts)).sum() / sum(counts)


@pytest.mark.parametrize("lora", [False, True], ids=["", "lora"])
@pytest.mark.parametrize("name", CHAINS)
def test_the_first_step_is_that_of_plain_pytorch(name: str, lora: bool, deep_host: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"lora": {"r": 2, "dropout": 0.0}} if lora else {}
    module = module_of(name, deep_host, **settings)
    state = {shared_name(key): value.clone() for key, value in module.state_dict().items()}
    first, metrics = fit_one_step(module, tmp_path)

    host = load_host(deep_host)
    handle = framefold.attach(host.model, framefold.build(name, BUDGET, **CHAINS[name]))
    model = host.model
    if lora:
        import peft

        targets = r".*language_model.*[qv]_proj"
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, modules_to_save=["compressor"])
        model = peft.get_peft_model(host.model, config)
        host.model.compressor.modules_to_save["default"].train()
    own = {shared_name(key): parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(state[key])
    loss = plain_loss(host, first.samples)
    loss.backward()
    assert metrics["train/loss"] == pytest.approx(loss.item(), abs=2e-6)
    found = {shared_name(key): gradient for key, gradient in first.gradients.items()}
    assert found.keys() == own.keys() and len(found) == len(first.gradients)
    assert lora == any("lora_A" in key for key in found)
    for key, gradient in found.items():
        expected = own[key].grad if own[key].grad is not None else torch.zeros_like(gradient)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-4 * float(expected.abs().max()) + 1e-8)
    assert sum(bool((gradient != 0).any()) for gradient in found.values()) > len(found) / 2
    if not lora:
        handle.detach()


def shared_name(name: str) -> str:
    """Return the name of a parameter without what the module, PEFT and attaching put in front of it."""
    for part in ("modules_to_save.default.", "default.", "base_model.model.", "model."):
        name = name.replace(part, "")
    return name


def test_budgets_are_means_over_the_layers(deep_host: Path, tmp_path: Path) -> None:
    module = module_of("fila+fastv", deep_host, train_budgets=[0.6], val_budgets=[0.3, 40])
    first, metrics = fit_one_step(module, tmp_path)
    sizes = [len(sample.frames) * 16 for sample in first.samples for _ in sample.questions]
    expected = [mean_tokens(module, 0.6, size) for size in sizes]
    assert metrics["train/visual_tokens"] == pytest.approx(sum(expected) / len(expected) + 1)  # the host's newline
    assert all(k - 1 < mean <= k for mean, k in zip(expected, (budget_tokens(0.6, n) for n in sizes), strict=True))
    module.trainer.validate(module, ResumableLoader(SyntheticStream(Recipe((16, 16)), 2, 2, fresh=False), restart=True))
    found = {name: float(value) for name, value in module.trainer.callback_metrics.items()}
    for budget in (0.3, 40):
        assert found[f"val/visual_tokens@{budget}"] == pytest.approx(mean_tokens(module, budget, 256) + 1)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"budget": 0.25}, "smallest budget for 4096 tokens is 1025, a ratio of 0.2503"),  # all tokens in 1 of 4 layers
        ({"budget": 0.5, "val_budgets": [0.5, 0.1]}, "smallest budget"),
        ({"budget": 0.5, "train_budgets": [0.5, 0.1]}, "smallest budget"),
        ({"budget": 0.26, "val_budgets": [0.251, 70]}, None),  # long videos have 0.251
    ],
)
def test_ratios_that_no_video_allows_are_refused_before_the_first_step(
    settings: dict[str, Any], error: str | None, deep_host: Path, tmp_path: Path
) -> None:
    module = CompressorModule("storm+fastv", params=CHAINS["storm+framefusion_in_llm"], host=str(deep_host), **settings)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = ResumableLoader(SyntheticStream(Recipe((16, 20)), 4, 2))
    if error is None:
        trainer.fit(module, data)
    else:
        with pytest.raises(BudgetError, match=error):
            trainer.fit(module, data)
    assert module.compressor.budget == settings["budget"]


def mean_tokens(module: CompressorModule, budget: float, n: int) -> float:
    """Return the mean number of tokens over the layers: all that enter in the first one, floor(...) in the others."""
    k = budget_tokens(budget, n)
    entered = module.compressor.entering(k, n, 16)
    assert entered > k
    return (entered + 3 * ((4 * k - entered) // 3)) / 4


@pytest.fixture
def fit(shards: Path, deep_host: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run ``framefold fit`` of a chain in a run folder; returns the exit status."""

    def run(folder: str, name: str, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["framefold"])
        args = ["--config", "data/shards", "--config", "trainer/cpu", "--data.shards", str(shards)]
        args += ["--data.batch_size", "2", "--data.val_videos", "2", "--data.val_frames", "16", "--last.every", "2"]
        args += ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
        args += ["--model.host", str(deep_host), "--model.compressor", name, "--model.budget", str(BUDGET)]
        args += ["--model.params", str(CHAINS[name]), "--model.lr", "0.05", "--model.losses", "{kl: 1.0}"]
        return main(["fit", *args, "--trainer.default_root_dir", str(tmp_path / folder), *words])

    return run


@pytest.mark.parametrize("name", CHAINS)
def test_a_run_resumes_exactly_and_its_export_answers_as_in_training(
    name: str, fit: Any, deep_host: Path, tmp_path: Path
) -> None:
    steps, last = ("--trainer.max_steps", "4"), "version_0/checkpoints/last.ckpt"
    assert fit("through", name, *steps) == 0
    real = CompressorModule.training_step

    def interrupted(self: CompressorModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 3:
            raise KeyboardInterrupt
        return real(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CompressorModule, "training_step", interrupted)
        assert fit("parts", name, *steps) == 130
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores Ctrl-C from then on
    assert fit("resumed", name, *steps, "--ckpt_path", str(tmp_path / "parts" / last)) == 0
    expected, found = (trained_weights(tmp_path / folder / last) for folder in ("through", "resumed"))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)

    module = CompressorModule.load_from_checkpoint(tmp_path / "through" / last)
    sample = Recipe((16, 16)).sample(7)
    assert export(str(tmp_path / "through"), str(tmp_path / "adapter")) is not None
    host = load_host(deep_host)
    with torch.no_grad():
        logits, prepared, batch = answer_questions(module.host, module.compressor, encode_batch(module.host, [sample]))
        assert prepared.prompt is not None and all(
            256 * BUDGET - 1 < p.mean_tokens <= 102 for p in prepared.prompt.places
        )
        framefold.attach(host.model, framefold.load(str(tmp_path / "adapter")))
        for row, inputs in enumerate(complete_prompts(host, sample)):
            words = int(batch.rows.attention_mask[row].sum())
            torch.testing.assert_close(host.model(**inputs).logits[0, -words:], logits[row, :words], rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_teacher_sees_all_tokens(deep_host: Path) -> None:
    host = load_host(deep_host)
    batch = encode_batch(host, [Recipe((16, 20)).sample(i) for i in range(2)])
    expected = teacher_outputs(host, batch, TeacherAttention())
    for name, params in CHAINS.items():
        other = load_host(deep_host)
        install_layer_hooks(other.model, framefold.build(name, BUDGET, **params).in_llm)
        found = teacher_outputs(other, batch, TeacherAttention())
        assert torch.equal(found.logits, expected.logits), name
        assert all(map(torch.equal, found.attention, expected.attention)), name
