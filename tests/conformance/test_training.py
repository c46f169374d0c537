"""Every family: gradients, labels and losses of an attached host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts import prepare
from tests.support.hosts.bare_hosts import AboveMean, Batch, Host, ScaledMerge, build, perturb
from tests.support.hosts.tiny_families import HOSTS

pytestmark = [
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),  # the frozen vision side
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),  # the name that all versions accept
]
EXACT = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


@contextmanager
def training(host: Host, compressor: Any) -> Iterator[Any]:
    """Attach the compressor, perturb its parameters, and put the host into training mode."""
    with framefold.attach(host.model, compressor):
        perturb(compressor)
        host.model.train()
        try:
            yield compressor
        finally:
            host.model.gradient_checkpointing_disable()
            host.model.eval()


CHECKPOINTING: dict[str, dict[str, Any] | None] = {
    "off": None,
    "reentrant": {"use_reentrant": True},
    "non-reentrant": {"use_reentrant": False},
}


def test_gradients_reach_the_compressor_with_and_without_checkpointing(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -4, 3])
    gradients: dict[str, list[Tensor]] = {}
    with training(host, ScaledMerge()) as compressor:
        for kind, arguments in CHECKPOINTING.items():
            if kind == "reentrant" and shares_keys(host):
                continue
            if arguments is not None:
                host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
            runs: list[Any] = []
            hook = host.language.layers[-1].self_attn.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
            compressor.zero_grad()
            host.model(**batch.attached_inputs, labels=batch.labels()).loss.backward()
            hook.remove()
            assert len(runs) == (1 if arguments is None else 2)  # so checkpointing was on
            gradients[kind] = [p.grad.clone() for p in compressor.parameters()]
    assert gradients["off"] and all(g.abs().sum() > 0 for g in gradients["off"])
    for kind, values in gradients.items():
        assert all(map(torch.equal, values, gradients["off"])), kind
    assert all(p.grad is None for p in host.model.parameters())  # the host is frozen, the compressor detached


def shares_keys(host: Host) -> bool:
    """Return whether layers read the keys and values of earlier ones."""
    return bool(getattr(host.language.config, "num_kv_shared_layers", 0))


@pytest.mark.parametrize("name", [name for name in HOSTS if name == "gemma4"])
def test_hosts_that_share_keys_lose_gradients_under_reentrant_checkpointing(name: str) -> None:
    """The bare host does, as its first pass has no graph, so there is nothing to compare an attached host with."""
    host = build(name)
    assert shares_keys(host)
    ids = host.batch([5, 6, 7]).inputs["input_ids"]
    gradients = {}
    host.model.train()
    for kind, arguments in CHECKPOINTING.items():
        if arguments is not None:
            host.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments)
        embeds = host.model.get_input_embeddings()(ids).requires_grad_()
        host.model(inputs_embeds=embeds, labels=ids).loss.backward()
        gradients[kind] = embeds.grad
    assert torch.equal(gradients["non-reentrant"], gradients["off"])
    assert not torch.allclose(gradients["reentrant"], gradients["off"], rtol=1e-2)


@pytest.mark.parametrize("family", ["qwen3_vl", "internvl", "video_llava"])
def test_gradients_are_finite_differences(family: str) -> None:
    host = build(family)
    batch = host.batch([5, -6, 6], [9, -4, 3])
    arguments = batch.attached_inputs | {"labels": batch.labels()}
    with training(host, ScaledMerge()) as compressor:
        host.model(**arguments).loss.backward()
        for parameter in compressor.parameters():
            slope, size = parameter.grad.norm(), 1e-2
            step = size * parameter.grad / slope
            with torch.no_grad():
                parameter += step
                above = host.model(**arguments).loss
                parameter -= 2 * step
                below = host.model(**arguments).loss
                parameter += step
            assert abs((above - below) / (2 * size * slope) - 1) < 0.03


def test_a_trained_vision_side_gets_gradients(host: Host) -> None:
    batch = host.batch([5, -6, 6])
    modules = (host.language, host.model.lm_head)
    outside = {f"{name}." for name, module in host.model.named_modules() if module in modules}
    vision = {n: p for n, p in host.model.named_parameters() if not n.startswith(tuple(outside))}
    for parameter in vision.values():
        parameter.requires_grad_(True)
    try:
        host.model(**batch.inputs, labels=batch.labels()).loss.backward()
        bare = {name for name, p in vision.items() if p.grad is not None and p.grad.abs().sum() > 0}
        host.model.zero_grad()
        with framefold.attach(host.model, framefold.build("uniform", 0.25)):
            host.model(**batch.attached_inputs, labels=batch.labels()).loss.backward()
        found = {name for name, p in vision.items() if p.grad is not None and p.grad.abs().sum() > 0}
    finally:
        host.model.zero_grad()
        host.model.requires_grad_(False)
    assert len(bare) > 5 and found == bare


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss over the labels, each predicted by the logits of the column before."""
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def labels_on_words(batch: Batch) -> Tensor:
    """Return labels on every word except the first of each row, which padding would have to predict."""
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    return ids.masked_fill((ids == batch.host.tiny.placeholder) | (mask == 0) | (mask.cumsum(-1) < 2), -100)


def test_labels_move_with_their_columns(host: Host) -> None:
    for side in ("left", "right"):
        batch = host.batch([5, -6, 6], [9, -4, 3], side=side)
        labels = labels_on_words(batch)
        with framefold.attach(host.model, AboveMean()) as handle, torch.no_grad():
            kwargs = prepare(host.model, batch.attached_inputs | {"labels": labels}, handle.model.compressor).kwargs
            out = host.model(**batch.attached_inputs, labels=labels)
        moved = kwargs["labels"]
        assert moved.shape == out.logits.shape[:2] and moved.shape[1] < labels.shape[1], side
        assert ((moved == -100) | (moved == kwargs["input_ids"])).all(), side
        assert [row[row != -100].tolist() for row in moved] == [row[row != -100].tolist() for row in labels], side
        assert torch.allclose(out.loss, cross_entropy(out.logits, moved), **EXACT), side


def test_the_loss_of_a_batch_is_the_mean_over_the_labels_of_its_rows(host: Host) -> None:
    for side in ("left", "right"):
        batch = host.batch([5, -6, 6], [9, -4, 3], [14], side=side)
        labels = labels_on_words(batch)
        with framefold.attach(host.model, AboveMean()), torch.no_grad():
            together = host.model(**batch.attached_inputs, labels=labels).loss
            weighted = []
            for row in batch.rows_alone:
                row_labels = labels_on_words(row)
                count = (row_labels != -100).sum()
                loss = host.model(**row.attached_inputs, labels=row_labels).loss
                weighted.append(torch.stack([loss * count, count.float()]))
        total, count = torch.stack(weighted).sum(0)
        assert count == (labels != -100).sum(), side
        assert torch.allclose(together, total / count, **EXACT), side


def test_full_outputs_match_the_callers_labels(host: Host) -> None:
    for side in ("left", "right"):
        batch = host.batch([5, -6, 6], [9, -4, 3], side=side)
        inputs, labels = batch.attached_inputs, labels_on_words(batch)
        with framefold.attach(host.model, AboveMean()), torch.no_grad():
            compact = host.model(**inputs, labels=labels)
        with framefold.attach(host.model, AboveMean(), outputs="full"), torch.no_grad():
            full = host.model(**inputs, labels=labels)
            assert full.logits.shape[:2] == labels.shape and torch.equal(full.loss, compact.loss), side
            assert torch.allclose(cross_entropy(full.logits, labels), full.loss, **EXACT), side
            assert torch.equal(host.model(**inputs, logits_to_keep=4).logits, full.logits[:, -4:]), side
            loss, logits = host.model(**inputs, labels=labels, return_dict=False)[:2]
            assert torch.equal(loss, full.loss) and torch.equal(logits, full.logits), side
            assert host.model.generate(**inputs, max_new_tokens=2).shape[1] == labels.shape[1] + 2, side


def test_full_outputs_repeat_the_logits_of_the_last_kept_column(host: Host) -> None:
    batch, uniform = host.batch([5, -6, 6]), framefold.build("uniform", 0.25)
    with framefold.attach(host.model, uniform), torch.no_grad():
        compact = host.model(**batch.attached_inputs).logits[0]
        kept = prepare(host.model, batch.attached_inputs, uniform).compaction.src[0].tolist()
    with framefold.attach(host.model, uniform, outputs="full"), torch.no_grad():
        full = host.model(**batch.attached_inputs).logits[0]
    last_kept = [max(new for new, old in enumerate(kept) if old <= column) for column in range(len(full))]
    assert len(kept) == len(compact) < len(full) and torch.equal(full, compact[last_kept])
