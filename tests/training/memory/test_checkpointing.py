"""Checkpointed layers: the same losses and gradients to the bit, and a fraction of the activations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.hooks.layer_hooks import install_layer_hooks
from framefold.adapters.hosts.prompt.vision import encode
from framefold.data.question import Question
from framefold.data.synthetic.recipe import Recipe
from framefold.training.frozen_host.batch import EncodedBatch, answer_questions, encode_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host
from framefold.training.frozen_host.question_rows import IGNORE, QuestionRows, answer_loss
from framefold.training.memory.checkpointing import checkpoint_layers
from tests.support.hosts import bare_hosts
from tests.support.hosts.bare_hosts import ScaledMerge, perturb
from tests.support.hosts.tiny_families import HOSTS, without
from tests.support.limits import HANG
from tests.support.ranks.fork_server import ForkServer

ROWS = [[11, 4, 7, 9], [5, 13, 8], [6, 6, 4, 12], [12, 9, 5]]  # two questions for each of two videos
LAYERS = 12


def encoded_batch(bare: bare_hosts.Host) -> EncodedBatch:
    """Return two videos of different lengths with two questions about each."""
    model, family = bare.model, family_of(bare.model)
    batch = bare.batch([5, -8], [5, -6], side="left" if family.recurrent else "right", seed=6)
    inputs = batch.attached_inputs
    columns = without(inputs, *family.vision_inputs)
    columns["position_ids"] = family.positions(model, inputs, inputs["attention_mask"], False)
    last = columns["position_ids"].masked_fill(inputs["attention_mask"] == 0, -1)
    start = last.reshape(-1, *last.shape[-2:]).amax((0, 2)) + 1
    width = max(map(len, ROWS))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in ROWS])
    labels = ids.masked_fill((ids == 0) | (torch.arange(width) < 2), IGNORE)
    video = torch.arange(2).repeat_interleave(2)
    rows = QuestionRows(ids, (ids != 0).long(), labels, video, start[video])
    questions = [Question("other", "which ?", "this", (), ())] * len(ROWS)
    times = [torch.arange(t).float() for t in (8, 6)]
    return EncodedBatch(encode(model, inputs), columns, times, rows, questions)


def loss_and_gradients(host: Host, compressor: Any, batch: EncodedBatch) -> tuple[list[Tensor], int]:
    """Return loss and gradients of a step, and how often the attention of the last layer ran."""
    runs: list[int] = []
    attention = [
        m for m in host.family.decoder_layers(host.model)[-1].modules() if type(m).__name__[-9:] == "Attention"
    ]
    hook = attention[0].register_forward_pre_hook(lambda *_: runs.append(1))
    answers = answer_questions(host, compressor, batch)
    loss = answer_loss(answers.logits, answers.batch.rows)
    gradients = torch.autograd.grad(loss, [p for p in compressor.parameters() if p.requires_grad], allow_unused=True)
    hook.remove()
    return [loss.detach(), *(g for g in gradients if g is not None)], len(runs)


@pytest.mark.parametrize("family", HOSTS)
def test_losses_and_gradients_are_the_same_to_the_bit_in_every_family(family: str) -> None:
    bare = bare_hosts.build(family)
    host, batch, compressor = Host(bare.model, Any), encoded_batch(bare), ScaledMerge()  # type: ignore[arg-type]
    compressor.materialize(host.width, (2, 2))
    perturb(compressor)
    expected, once = loss_and_gradients(host, compressor, batch)
    checkpoint_layers(host.model)
    found, twice = loss_and_gradients(host, compressor, batch)
    assert once < twice <= 2 * once  # a last layer that stores no keys does nothing in the prefill of a video
    assert once == (1 if host.family.recurrent else 2)
    assert len(found) == 2 and float(found[1].abs().sum()) > 0
    assert all(map(torch.equal, found, expected))
    with torch.no_grad():
        answers = answer_questions(host, compressor, batch)
    assert torch.allclose(answer_loss(answers.logits, answers.batch.rows), expected[0], atol=1e-5)


COMPRESSORS: dict[str, Callable[[], Any]] = {
    "pruned by attention": lambda: framefold.build("fila+fastv", 0.4),
    "merged on input": lambda: framefold.build("fila+at_layer", 0.4),
    "merged after attention": lambda: framefold.build("fila+framefusion_in_llm", 0.4),
    "soft mask": lambda: framefold.build("vision_selector", 0.4),
}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_acts_inside_the_language_model_gets_the_same_gradients(deep_host: Path, name: str) -> None:
    samples = [Recipe((16, 20)).sample(i) for i in range(2)]
    found = []
    for on in (False, True):
        host, compressor = load_host(deep_host), COMPRESSORS[name]().train()
        host.family.create_parameters(compressor, host.model)
        perturb(compressor)
        install_layer_hooks(host.model, compressor.in_llm)  # as CompressorModule does
        if on:
            checkpoint_layers(host.model)
        torch.manual_seed(3)
        found.append(loss_and_gradients(host, compressor, encode_batch(host, samples)))
    (expected, once), (recomputed, twice) = found
    assert twice == 2 * once and len(expected) > 1
    assert all(map(torch.equal, recomputed, expected))


def saved_bytes(host: Host, compressor: Any, batch: EncodedBatch) -> int:
    """Return the bytes that a forward keeps for its backward pass, each storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in (*host.model.parameters(), *host.model.buffers())}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in weights:
            kept[address] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        answers = answer_questions(host, compressor, batch)
    assert answers.logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_a_step_keeps_at_most_a_quarter_of_its_activations_in_twelve_layers() -> None:
    kept = {}
    for on in (False, True):
        bare = bare_hosts.build("qwen2_5_vl", layers=LAYERS)
        host, compressor = Host(bare.model, Any), ScaledMerge()  # type: ignore[arg-type]
        compressor.materialize(host.width, (2, 2))
        if on:
            checkpoint_layers(host.model)
        kept[on] = saved_bytes(host, compressor, encoded_batch(bare))
    assert kept[True] <= kept[False] / 4, kept


CODE = (
    "from tests.support.ranks.distributed_equal import train_checkpointed as train; train({!r}, {!r}, {!r}, {!r}, {!r})"
)
STRATEGIES = ["ddp", "deepspeed_cpu_stage_2", "deepspeed_cpu_stage_3", "fsdp2"]


@pytest.mark.timeout(HANG + 60)
@pytest.mark.parametrize("compressor", ["fila", "fila+at_layer"])
def test_every_strategy_trains_the_same_weights(
    ranks: ForkServer, deep_host: Path, shards: Path, tmp_path: Path, compressor: str
) -> None:
    code = CODE.format(str(deep_host), str(shards), str(tmp_path), compressor, STRATEGIES)
    run = ranks.start([], tmp_path / "log", world=2, code=code)
    assert ranks.wait(run, HANG) == [0, 0], run.text()[-3000:]
    for strategy in STRATEGIES:
        names = f"{strategy}-False-start", f"{strategy}-False", f"{strategy}-True"
        start, plain, checkpointed = (
            torch.load(tmp_path / f"{compressor}-{name}.pt", weights_only=True) for name in names
        )
        moved = [name for name in start if not torch.equal(start[name], plain[name])]
        assert len(moved) == len(start) > 4
        assert all(torch.equal(checkpointed[name], plain[name]) for name in plain), strategy
