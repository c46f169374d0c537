"""Gradients, labels and losses through an attached host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts import prepare

from . import tiny_hosts as tiny
from .tiny_hosts import Positive, TopNorm, pair, single


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def host(request: pytest.FixtureRequest) -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny.llava_onevision(request.param)
    torch.set_num_threads(threads)


def answers(inputs: dict[str, Any]) -> torch.Tensor:
    labels = inputs["input_ids"].clone()
    labels[:, :-3] = -100
    return labels


def test_gradients_reach_the_compressor_and_not_the_host() -> None:
    host = tiny.llava_onevision()
    inputs = pair() | {"labels": answers(pair())}
    compressor = TopNorm()
    framefold.attach(host, compressor)
    host.train()
    loss = host(**inputs).loss
    loss.backward()
    assert compressor.scale is not None and compressor.scale.grad is not None
    assert compressor.scale.grad.abs().min() > 0
    assert all(p.grad is None for name, p in host.named_parameters() if not name.startswith("compressor"))
    step = 1e-3 * compressor.scale.grad / compressor.scale.grad.norm()
    with torch.no_grad():
        slope = compressor.scale.grad.norm() * 2e-3
        compressor.scale += step
        above = host(**inputs).loss
        compressor.scale -= 2 * step
        assert abs((above - host(**inputs).loss) / slope - 1) < 0.02


def test_the_compressors_losses_join_the_loss_in_training_only() -> None:
    host = tiny.llava_onevision()
    inputs = single() | {"labels": answers(single())}
    prepared = prepare(host, inputs, TopNorm())
    assert prepared.losses["scale"].item() == 1.0 and prepared.losses["scale"].requires_grad
    bare = host(**prepared.kwargs).loss
    with framefold.attach(host, TopNorm()):
        assert torch.equal(host(**inputs).loss, bare)
        host.train()
        assert torch.allclose(host(**inputs).loss, bare + 1)
        assert torch.equal(host(**prepared.kwargs).loss, bare)  # losses of prepare() are the caller's to add
    host.eval()


@pytest.mark.parametrize("side", ["left", "right"])
def test_labels_move_with_their_columns_and_full_outputs_meet_the_callers_labels(host: Any, side: str) -> None:
    inputs = pair(side)
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == tiny.VIDEO, -100)
    mask = inputs["attention_mask"]
    labels = labels.masked_fill((mask == 0) | (mask.cumsum(-1) < 2), -100)  # padding predicts the first word of a row

    def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    with framefold.attach(host, Positive()):
        kwargs = prepare(host, inputs | {"labels": labels}, host.compressor).kwargs
        out = host(**inputs, labels=labels)
    assert ((kwargs["labels"] == -100) | (kwargs["labels"] == kwargs["input_ids"])).all()
    assert (kwargs["labels"] != -100).sum() == (labels != -100).sum()
    assert torch.allclose(out.loss, loss_of(out.logits, kwargs["labels"]))
    with framefold.attach(host, Positive(), outputs="full"):
        full = host(**inputs, labels=labels)
        assert full.logits.shape[:2] == labels.shape and torch.equal(full.loss, out.loss)
        assert torch.allclose(loss_of(full.logits, labels), out.loss)
        assert torch.equal(host(**inputs, logits_to_keep=4).logits, full.logits[:, -4:])
        loss, logits = host(**inputs, labels=labels, return_dict=False)[:2]
        assert torch.equal(loss, full.loss) and torch.equal(logits, full.logits)
        assert host.generate(**inputs, max_new_tokens=3).shape[1] == labels.shape[1] + 3


def test_a_vision_side_that_is_trained_gets_gradients() -> None:
    host = tiny.llava_onevision()
    host.model.multi_modal_projector.requires_grad_(True)
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        host(**single(), labels=answers(single())).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in host.model.multi_modal_projector.parameters())
