"""Every family: prompts as embeddings, labels that are shifted already, and images whose placeholders are masked."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import framefold
from framefold.adapters.hosts import prepare
from framefold.adapters.hosts.base.family import features_of
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import (
    DROPPING,
    GLM_HOSTS,
    IMAGE_RUN_HOSTS,
    KEEPING,
    MROPE_HOSTS,
    VIDEO_ONLY_HOSTS,
    Host,
    build,
)
from tests.support.hosts.images import image_arguments
from tests.support.hosts.tiny_families import HOSTS, IMAGE, VIDEO, without


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


# ---- labels that are shifted already --------------------------------------------------------------------------------


def shifted(labels: Tensor) -> Tensor:
    return nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()


def text_labels(host: Host, inputs: dict[str, Any]) -> Tensor:
    """Return labels on all text, also before the video and on the first column after it."""
    ids = inputs["input_ids"]
    return ids.masked_fill((ids == host.tiny.placeholder) | (inputs["attention_mask"] == 0), -100)


def test_shifted_labels_give_the_loss_and_gradients_of_labels(host: Host) -> None:
    for side in ("left", "right"):
        batch = host.batch([5, -6, 6], [9, -6, 3], side=side)
        labels = text_labels(host, batch.inputs)
        labels[:, 0] = -100  # the loss of no host counts the first column
        forms = ({"labels": labels}, {"labels": labels, "shift_labels": shifted(labels)})
        forms += ({"labels": shifted(labels), "shift_labels": shifted(labels)},)  # as in sequence parallel training
        bare = [host.model(**batch.inputs, **form).loss for form in forms]
        assert torch.equal(bare[0], bare[1]) and torch.equal(bare[0], bare[2])
        for make in (KEEPING, *DROPPING.values()):
            with framefold.attach(host.model, make()):
                found = [host.model(**batch.attached_inputs, **form).loss for form in forms]
            assert max(abs(float(loss - found[0])) for loss in found) < 1e-6, side
            assert (make is KEEPING) == bool(torch.equal(found[0], bare[0]))


def test_a_shifted_label_moves_to_the_last_kept_column_before_its_own(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -4, 3])
    labels = text_labels(host, batch.inputs)
    compressor = DROPPING["different counts"]()
    prepared = prepare(host.model, batch.attached_inputs | {"shift_labels": shifted(labels)}, compressor)
    map_, moved = prepared.compaction, prepared.kwargs["shift_labels"]
    assert moved.shape == prepared.kwargs["input_ids"].shape == map_.pad.shape
    expected = torch.full_like(moved, -100)
    for row, columns in enumerate(map_.src):
        kept = columns[~map_.pad[row]]
        first = int(map_.pad[row].sum())
        for new, (column, following) in enumerate(zip(kept, [*kept[1:], None], strict=True)):
            target = labels.shape[1] if following is None else int(following)
            assert (labels[row, int(column) + 1 : target] == -100).all()
            expected[row, first + new] = -100 if following is None else labels[row, target]
    assert torch.equal(moved, expected) and int((moved != -100).sum()) == int((shifted(labels) != -100).sum())


def test_a_label_for_the_first_column_of_the_next_shard_is_kept(host: Host) -> None:
    """A sequence is split among the ranks of context parallel training, so the last column has a label too."""
    batch = host.batch([5, -4])
    following = torch.full_like(batch.inputs["input_ids"], -100)
    following[0, -1] = 7
    prepared = prepare(host.model, batch.attached_inputs | {"shift_labels": following}, framefold.build("uniform", 2))
    assert prepared.kwargs["shift_labels"][0].tolist().count(7) == 1
    assert prepared.kwargs["shift_labels"][0, -1] == 7


def test_shifted_labels_of_dropped_columns_are_refused(host: Host) -> None:
    batch = host.batch([5, -4, 6])
    labels = batch.inputs["input_ids"]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        with pytest.raises(InputError, match="labels are on placeholders that are dropped"):
            host.model(**batch.attached_inputs, labels=labels, shift_labels=shifted(labels))
        with pytest.raises(InputError, match="shift_labels must be"):
            host.model(**batch.attached_inputs, labels=labels, shift_labels=labels[:, 1:])


# ---- embeddings -----------------------------------------------------------------------------------------------------


def embedded(host: Host, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs with embeddings instead of ids, for a host with M-RoPE as new."""
    ids = inputs["input_ids"]
    host.model.base_model.rope_deltas = None  # of the last batch; a bare host adds them even if its size was another
    if host.name in GLM_HOSTS:  # it takes the id of videos here, which processors do not write
        ids = ids.masked_fill(ids == IMAGE, VIDEO)
    return without(inputs, "input_ids") | {"inputs_embeds": host.model.get_input_embeddings()(ids)}


BATCHES: dict[str, dict[str, Any]] = {
    "one row": {"rows": [[5, -6, 6]]},
    "one row without a mask": {"rows": [[5, -6, 6]], "mask": False},
    "padding on the left": {"rows": [[5, -6, 6], [9, -6, 3]]},
    "padding on the right": {"rows": [[5, -6, 6], [9, -6, 3]], "side": "right"},
}


def test_embeddings_with_a_video_are_taken_as_the_bare_host_takes_them(host: Host) -> None:
    for case, arguments in BATCHES.items():
        batch = host.batch(*arguments["rows"], **without(arguments, "rows"))
        inputs, attached = embedded(host, batch.inputs), embedded(host, batch.attached_inputs)
        bare = host.model(**inputs).logits
        with framefold.attach(host.model, KEEPING()):
            assert torch.equal(host.model(**attached).logits, bare), case
            assert torch.equal(host.model(**attached).logits, bare), case  # nothing is remembered
        assert torch.equal(host.model(**inputs).logits, bare), case


@pytest.mark.parametrize("name", MROPE_HOSTS)
def test_hosts_with_mrope_number_embeddings_as_after_the_last_prompt(name: str) -> None:
    """Without ids they add the offset of the prompt before, which a compressor neither changes nor forgets."""
    host = build(name)
    batch = host.batch([5, -6, 6], [9, -6, 3])
    inputs = embedded(host, batch.inputs)
    host.model(**batch.inputs)
    deltas = host.model.base_model.rope_deltas
    assert bool(deltas.any())
    bare = host.model(**inputs).logits
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(host.model(**inputs).logits, bare)
        assert torch.equal(host.model.base_model.rope_deltas, deltas)


def test_generation_from_embeddings_equals_the_bare_host(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -6, 3])
    inputs, attached = embedded(host, batch.inputs), embedded(host, batch.attached_inputs)
    if "inputs_embeds" not in inspect.signature(host.model.prepare_inputs_for_generation).parameters:
        return refuses_as_the_bare_host(host, attached)
    bare = host.model.generate(**inputs, max_new_tokens=3)
    assert bare.shape == (2, 3)  # without the prompt
    ids = {"input_ids": batch.inputs["input_ids"]}
    both = None if host.name in GLM_HOSTS else host.model.generate(**inputs | ids, max_new_tokens=3)
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(host.model.generate(**attached, max_new_tokens=3), bare)
        longest = attached["inputs_embeds"].shape[1] + 3
        assert torch.equal(host.model.generate(**attached, max_length=longest), bare)
        if both is not None:
            assert torch.equal(host.model.generate(**attached | ids, max_new_tokens=3), both)
    for make in DROPPING.values():
        with framefold.attach(host.model, make()):
            tokens = host.model.generate(**attached, max_new_tokens=2)
            first = host.model(**attached, position_ids=text_positions(host, batch.inputs)).logits[:, -1].argmax(-1)
            if both is not None:
                with_ids = host.model.generate(**attached | ids, max_new_tokens=2)
                assert torch.equal(with_ids, host.model.generate(**batch.attached_inputs, max_new_tokens=2))
        assert tokens.shape == (2, 2) and torch.equal(tokens[:, 0], first)


def refuses_as_the_bare_host(host: Host, attached: dict[str, Any]) -> None:
    """Check that a host that does not generate from embeddings says so itself, attached or not."""
    with pytest.raises(ValueError, match="doesn't have its forwarding implemented") as bare:
        host.model.generate(**attached, max_new_tokens=3)
    with framefold.attach(host.model, KEEPING()), pytest.raises(ValueError, match=re.escape(str(bare.value))):
        host.model.generate(**attached, max_new_tokens=3)


def text_positions(host: Host, inputs: dict[str, Any]) -> Tensor:
    """Return the positions of columns in generation without ids."""
    mask = inputs["attention_mask"]
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
    return positions.expand(3, *mask.shape) if host.name in MROPE_HOSTS else positions


def test_embeddings_and_ids_drop_the_same_tokens(host: Host) -> None:
    """With positions of the caller, since hosts with M-RoPE number embeddings like text."""
    batch = host.batch([5, -6, 6], [9, -6, 3])
    positions = {"position_ids": batch.language_inputs.positions}
    for make in DROPPING.values():
        with framefold.attach(host.model, make()):
            expected = host.model(**batch.attached_inputs, **positions).logits
            found = host.model(**embedded(host, batch.attached_inputs), **positions).logits
        assert found.shape == expected.shape and torch.equal(found, expected)


def test_a_soft_prompt_among_embeddings_keeps_its_values_and_gradients(host: Host) -> None:
    batch = host.batch([5, -6, 6])
    inputs = embedded(host, batch.attached_inputs)
    if host.name == "gemma4":
        pytest.skip("the bare host looks up the ids of all embeddings, and finds none for a soft prompt")
    soft = torch.randn(3, inputs["inputs_embeds"].shape[-1], generator=torch.Generator().manual_seed(0))
    soft.requires_grad_()

    def run(attached: bool) -> Tensor:
        soft.grad = None
        values = torch.cat([soft[None], inputs["inputs_embeds"][:, 3:]], 1)
        arguments = inputs if attached else without(inputs, "clips")
        host.model(**arguments | {"inputs_embeds": values}).logits[:, -1].sum().backward()
        return soft.grad.clone()

    bare = run(False)
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(run(True), bare) and bool(bare.any())
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert bool(run(True).any())


# ---- masked images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in HOSTS if name not in VIDEO_ONLY_HOSTS])
def test_a_masked_image_at_an_end_of_a_row_stays_with_its_features(name: str) -> None:
    host = build(name)
    for at_end in (True, False):
        inputs = with_masked_image(host, at_end)
        bare = host.model(**without(inputs, "clips")).logits
        with framefold.attach(host.model, KEEPING()):
            assert torch.equal(host.model(**inputs).logits, bare)
        with framefold.attach(host.model, framefold.build("uniform", 0.25)):
            found = host.model(**inputs).logits
            host.model.generate(**inputs, max_new_tokens=1)
            dropped = 6 * host.tiny.tokens - 6 * host.tiny.tokens // 4
            assert found.shape[1] == inputs["input_ids"].shape[1] - dropped


def with_masked_image(host: Host, at_end: bool) -> dict[str, Any]:
    """Return a prompt with a video and the masked placeholders of an image at the end of the row or at its start."""
    inputs = host.batch([5, -6, 6]).inputs
    if host.name in IMAGE_RUN_HOSTS:
        pixels = host.batch([1, -7]).inputs["pixel_values"]
        image = {"pixel_values": pixels, "clips": [*[0] * 6, -1] if at_end else [-1, *[0] * 6]}
        count = host.tiny.tokens
    else:
        image = image_arguments(host)
        count = sum(part.shape[:-1].numel() for part in features_of(host.model, "image", image).pooler_output)

    def join(values: Tensor, more: Tensor) -> Tensor:
        return torch.cat([values, more] if at_end else [more, values], dim=1)

    ids = inputs["input_ids"]
    out = dict(inputs)
    out["input_ids"] = join(ids, torch.full((1, count), IMAGE))
    out["attention_mask"] = join(torch.ones_like(ids), torch.zeros(1, count, dtype=torch.long))
    if (types := inputs.get("mm_token_type_ids")) is not None:
        out["mm_token_type_ids"] = join(types, types.new_ones(1, count))
    return out | image
