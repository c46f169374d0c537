"""Losses of the compressor in trainers that compute their own loss: exposed, and missed with a warning."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import framefold
from framefold.adapters import Compressed, VideoTokens
from framefold.errors import AttachError
from tests.support.guides.blocks import blocks
from tests.support.hosts import tiny_hosts as tiny
from tests.support.hosts.fused_head import SFTTrainer, forward_of, fused
from tests.support.hosts.tiny_families import HOSTS, labels_of
from tests.support.hosts.tiny_hosts import TopNorm, batch, prompt, single

pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*pin_memory")
STEPS, ACCUMULATE, RATE = 2, 2, 0.1


class Costly(TopNorm):
    """A compressor whose own loss is 1000."""

    def compress(self, video: VideoTokens, k: int, query: Any) -> Compressed:
        out = super().compress(video, k, query)
        return Compressed(out.tokens, {"cost": out.losses["scale"] * 1000})


@pytest.fixture
def host() -> Any:
    host = tiny.llava_onevision("sdpa").train()
    framefold.attach(host, Costly(), outputs="full")
    return host


def rows(family: str) -> list[dict[str, Any]]:
    batches = [HOSTS[family].inputs([4, -4, 6], seed=20 + i) for i in range(STEPS * ACCUMULATE)]
    return [batch | {"labels": labels_of(batch, last=2 + i % 3)} for i, batch in enumerate(batches)]


def settings(folder: Path) -> dict[str, Any]:
    return dict(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=1, gradient_accumulation_steps=ACCUMULATE,
        learning_rate=RATE, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0, logging_steps=1,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
        dataloader_pin_memory=False,
    )  # fmt: skip


def train(model: Any, folder: Path, trainer_class: Any = None, arguments: Any = None, **more: Any) -> list[float]:
    """Train on the rows in order; return the losses of the steps."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(**settings(folder), **arguments or {})
    data = rows("llava_onevision")
    trainer = (trainer_class or Trainer)(
        model, arguments, data_collator=lambda items: items[0], train_dataset=data, **more
    )
    trainer._get_train_sampler = lambda *_: None
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def without_compressor_losses(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    logits = outputs.logits[:, :-1].flatten(0, 1)
    return cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum") / num_items_in_batch


def warnings_of(run: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Call a function; return the warnings about unused losses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(*args, **kwargs)
    return [str(warning.message) for warning in caught if "not trained" in str(warning.message)]


def test_trainers_that_leave_out_the_losses_warn_once(tmp_path: Path) -> None:
    trainers: dict[str, dict[str, Any]] = {
        "label smoothing": {"arguments": {"label_smoothing_factor": 0.1}},
        "compute_loss_func": {"compute_loss_func": without_compressor_losses},
        "TRL": {"trainer_class": SFTTrainer},
    }
    for name, arguments in trainers.items():
        host = tiny.llava_onevision("sdpa")
        framefold.attach(host, Costly(), outputs="full")
        found = warnings_of(train, host, tmp_path / name, **arguments)
        assert len(found) == 1 and "cost 1000" in found[0] and "compressor_losses(model)" in found[0], (name, found)


def test_trainers_that_train_the_losses_do_not_warn(host: Any, tmp_path: Path) -> None:
    def own_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        own = sum(framefold.compressor_losses(host).values()) * (labels[:, 1:] != -100).sum() / num_items_in_batch
        return without_compressor_losses(outputs, labels, num_items_in_batch) + own

    def both_ways() -> None:
        losses[:] = [train(copy.deepcopy(host), tmp_path), train(host, tmp_path, compute_loss_func=own_loss)]

    losses: list[list[float]] = []
    assert warnings_of(both_ways) == []
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][0] > 1000


def test_no_warning_without_a_reason(host: Any) -> None:
    """Two forwards before a backward, losses of zero, forwards without backward, and losses that were only read."""
    inputs = single() | {"labels": labels_of(single())}

    def two_forwards() -> None:
        (host(**inputs).loss + host(**inputs).loss).backward()

    def zero() -> None:
        host.compressor.scale.data.zero_()
        host(**inputs).logits.mean().backward()
        host.compressor.scale.data.fill_(1.0)

    def read() -> None:
        logits = host(**inputs).logits
        framefold.compressor_losses(host)
        logits.mean().backward()

    def separate_backwards() -> None:
        out = host(**inputs)
        losses = framefold.compressor_losses(host)
        out.logits.mean().backward(retain_graph=True)
        losses["cost"].backward()

    for run in (two_forwards, zero, read, separate_backwards, lambda: host(**inputs)):
        assert warnings_of(run) == [], run
    assert len(warnings_of(lambda: host(**inputs).logits.mean().backward())) == 1
    assert warnings_of(lambda: host(**inputs).logits.mean().backward()) == []  # once per host


def test_the_losses_are_those_of_the_last_forward(host: Any) -> None:
    inputs = single() | {"labels": labels_of(single())}
    out = host(**inputs)
    losses = framefold.compressor_losses(host)
    assert list(losses) == ["cost"] and losses["cost"].item() == 1000 and losses["cost"].requires_grad
    assert out.compressor_losses["cost"] is losses["cost"] and "compressor_losses" not in out
    with torch.no_grad():  # TRL computes metrics in a second forward
        assert host(**inputs).compressor_losses["cost"].item() == 1000
    assert framefold.compressor_losses(torch.nn.ModuleDict({"wrapped": host}))["cost"] is losses["cost"]
    losses["cost"].backward()
    assert host.compressor.scale.grad.abs().sum() > 0
    host(**inputs).loss.backward()
    assert framefold.compressor_losses(host)["cost"].grad_fn is None  # the graph is freed
    host(**batch(prompt(9)))
    assert framefold.compressor_losses(host) == {}
    host(**inputs)
    host.eval()
    assert framefold.compressor_losses(host) == {}
    assert host(**inputs).compressor_losses["cost"].item() == 1000
    with pytest.raises(AttachError, match="no compressor is attached to this Linear"):
        framefold.compressor_losses(torch.nn.Linear(2, 2))


def test_a_host_between_forward_and_backward_can_be_copied_and_pickled(host: Any) -> None:
    loss = host(**single(), labels=labels_of(single())).loss
    attachments = [copy.deepcopy(host)._framefold, pickle.loads(pickle.dumps(host._framefold))]
    assert [attachment.losses for attachment in attachments] == [None, None]
    loss.backward()
    assert host.compressor.scale.grad is not None


def trl_module() -> Any:
    """Return TRL, or a stand-in with the same loss."""
    if importlib.util.find_spec("trl") is not None:
        return importlib.import_module("trl")
    return types.SimpleNamespace(SFTTrainer=SFTTrainer)


def sft(losses: list[float], trl: Any, cls: Any, model: Any, folder: Path) -> None:
    """Train with a class derived from SFTTrainer, and append the losses of the steps."""
    if trl.SFTTrainer is SFTTrainer:
        losses += train(model, folder, cls)
        return
    from datasets import Dataset
    from datasets.table import InMemoryTable

    from tests.support.hosts.tiny_processors import build_tokenizer

    data = rows("llava_onevision")
    arguments = trl.SFTConfig(
        **settings(folder), bf16=False, gradient_checkpointing=False, max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    numbers = Dataset(InMemoryTable.from_pydict({"row": list(range(len(data)))}), fingerprint="rows")
    trainer = cls(
        model, arguments, train_dataset=numbers, data_collator=lambda items: data[items[0]["row"]],
        processing_class=build_tokenizer({}, {}),
    )  # fmt: skip
    trainer._get_train_sampler = lambda *_: None
    trainer.train()
    losses += [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_the_recipe_of_the_guide_trains_the_losses_with_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = trl_module()
    monkeypatch.setitem(sys.modules, "trl", trl)
    recipe: dict[str, Any] = {}
    exec(next(text for text in blocks("docs/train_with_trainers.md", "python") if "# sft.py" in text), recipe)
    losses: dict[str, list[float]] = {}
    scales: dict[str, torch.Tensor] = {}
    for name, cls in {"plain": trl.SFTTrainer, "recipe": recipe["CompressorSFTTrainer"]}.items():
        model = tiny.llava_onevision("sdpa")
        framefold.attach(model, TopNorm())
        found = warnings_of(sft, losses.setdefault(name, []), trl, cls, model, tmp_path)
        assert len(found) == (name == "plain")
        scales[name] = model.compressor.scale.detach()
    assert losses["recipe"][0] == pytest.approx(losses["plain"][0] + 1, abs=1e-3)  # the mean of squares of ones
    # the gradient of that loss is 2 / width, its sum over the accumulated batches is divided by their number
    width = scales["plain"].numel()
    decayed = (1 - RATE * 2 / width) ** STEPS
    torch.testing.assert_close(scales["recipe"] - scales["plain"], torch.full((width,), decayed - 1), rtol=0.1, atol=0)


def test_label_smoothing_of_a_fused_head_is_seen_by_the_compressor(host: Any) -> None:
    with forward_of(host, fused):
        out = host(**single(), labels=labels_of(single()))
    assert out.loss > 1000 and out.compressor_losses["cost"].item() == 1000
    (framefold.compressor_losses(host)["cost"] - out.log_probs.sum()).backward()
    assert host.compressor.scale.grad.abs().sum() > 0
