"""Hugging Face ``Trainer`` and Lightning on an attached host, compared with a hand-written loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from tests.support.hosts.in_llm import JoinPairs, JoinPairsOnInput, KeepThird
from tests.support.hosts.tiny_families import HOSTS, labels_of
from tests.support.hosts.tiny_hosts import TopNorm

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:.*pin_memory", "ignore:None of the inputs have"
)
STEPS, ACCUMULATE, RATE = 3, 2, 0.1
FAMILIES = ["llava_onevision", "qwen3_vl", "smolvlm"]  # 1-D positions and one tensor, M-RoPE and deepstack, images


STAGES: dict[str, Callable[[], Any]] = {
    "alone": lambda: None,
    "pruned": lambda: KeepThird(0),
    "merged after attention": lambda: JoinPairs(0),
    "merged on input": lambda: JoinPairsOnInput(1),
}


def top_norm(stage: str) -> TopNorm:
    """Return the stand-in, which has its own loss, with a stage inside the language model."""
    compressor = TopNorm(0.5)
    compressor.in_llm = STAGES[stage]()
    compressor.exact_budget = False  # inside the language model, the stand-ins count for themselves
    return compressor


def rows(family: str, count: int, seed: int) -> list[dict[str, Any]]:
    batches = [HOSTS[family].inputs([4, -4 - 2 * (i % 2), 6], seed=seed + i) for i in range(count)]
    return [batch | {"labels": labels_of(batch, last=2 + i % 3)} for i, batch in enumerate(batches)]


def host_of(family: str, compressor: Any, **options: Any) -> Any:
    model = HOSTS[family].build()
    framefold.attach(model, compressor, **options)
    return model


def run_loop(model: Any, data: list[dict[str, Any]], by_token: bool) -> list[float]:
    """Run SGD on the mean loss over the answer tokens of a group of rows, or over the rows; return the losses."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=RATE)
    losses = []
    for step in range(STEPS):
        group = data[step * ACCUMULATE : (step + 1) * ACCUMULATE]
        counts = [int((row["labels"] != -100).sum()) if by_token else 1 for row in group]
        parts = [model(**row).loss * n / sum(counts) for row, n in zip(group, counts, strict=True)]
        losses.append(sum(part.item() for part in parts))
        optimizer.zero_grad()
        for part in parts:
            part.backward()
        optimizer.step()
    return losses


def trainer_of(model: Any, folder: Path, **more: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1, per_device_eval_batch_size=1,
        gradient_accumulation_steps=ACCUMULATE, learning_rate=RATE, lr_scheduler_type="constant", optim="sgd",
        max_grad_norm=0.0, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        remove_unused_columns=False, dataloader_pin_memory=False, **more.pop("arguments", {}),
    )  # fmt: skip
    trainer = Trainer(model, arguments, data_collator=lambda items: items[0], **more)
    trainer._get_train_sampler = lambda *_: None  # in order
    return trainer


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_trainer_equals_a_hand_written_loop(family: str, stage: str, tmp_path: Path) -> None:
    data = rows(family, STEPS * ACCUMULATE, seed=20)
    model = host_of(family, top_norm(stage))
    checkpointing = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    trainer = trainer_of(model, tmp_path, train_dataset=data, arguments=checkpointing)
    trainer.train()
    expected = host_of(family, top_norm(stage)).train()
    by_token = trainer.model_accepts_loss_kwargs  # Trainer passes the number of tokens of the group to such hosts
    losses = run_loop(expected, data, by_token)
    assert by_token == (family != "qwen3_vl")
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == pytest.approx(losses, abs=1e-3)
    assert (expected.compressor.scale != 1).any()
    torch.testing.assert_close(model.compressor.scale, expected.compressor.scale, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_with_full_outputs_matches_the_labels(family: str, stage: str, tmp_path: Path) -> None:
    data = rows(family, 3, seed=40)
    model = host_of(family, top_norm(stage), outputs="full").eval()
    with torch.no_grad():
        outputs = [model(**row) for row in data]
    pairs: list[tuple[Tensor, Tensor]] = []

    def metrics(prediction: Any) -> dict[str, float]:
        found = prediction.predictions
        found = found[0] if isinstance(found, tuple) else found  # some hosts also return vision features
        for logits, labels in zip(found, prediction.label_ids, strict=True):
            pairs.append((torch.tensor(logits), torch.tensor(labels)))
        return {"rows": len(pairs)}

    trainer = trainer_of(model, tmp_path, eval_dataset=data, compute_metrics=metrics)
    result = trainer.evaluate()
    assert result["eval_loss"] == pytest.approx(sum(out.loss.item() for out in outputs) / 3, abs=1e-5)
    assert result["eval_rows"] == 3
    for (logits, labels), out, row in zip(pairs, outputs, data, strict=True):  # Trainer pads with -100
        columns = row["labels"].shape[1]
        assert torch.equal(logits[:columns], out.logits[0]) and torch.equal(labels[:columns], row["labels"][0])
        assert (labels[columns:] == -100).all()
        loss = torch.nn.functional.cross_entropy(logits[: columns - 1], labels[1:columns])
        assert torch.allclose(loss, out.loss, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_lightning_equals_a_hand_written_loop(family: str, stage: str) -> None:
    lightning = pytest.importorskip("pytorch_lightning")

    class Tuning(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def training_step(self, row: dict[str, Any], index: int) -> Tensor:
            return self.model(**row).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=RATE)

    data = rows(family, STEPS * ACCUMULATE, seed=20)
    module = Tuning(host_of(family, top_norm(stage)).train())
    trainer = lightning.Trainer(
        max_steps=STEPS, accumulate_grad_batches=ACCUMULATE, accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    expected = host_of(family, top_norm(stage)).train()
    run_loop(expected, data, by_token=False)
    assert (expected.compressor.scale != 1).any()
    torch.testing.assert_close(module.model.compressor.scale, expected.compressor.scale, atol=1e-6, rtol=1e-5)
