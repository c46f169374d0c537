"""Every family: a forward of the attached host equals the bare host on the kept tokens, and on no others."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts import encode, list_families, prepare
from framefold.adapters.hosts.base.family import features_of, get_family
from tests.support.hosts.bare_hosts import (
    COMPRESSING,
    DROPPING,
    IMAGE_RUN_HOSTS,
    KEEPING,
    MROPE_HOSTS,
    AboveMean,
    Host,
    ScaledMerge,
    build,
    perturb,
)
from tests.support.hosts.oracles import (
    CONTROL,
    TOLERANCE,
    ShortRow,
    max_difference,
    relative_error,
    rows_of,
    run_kept,
    run_short,
    shorten,
)
from tests.support.hosts.tiny_families import HOSTS, UNTESTED, without


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


def test_every_registered_family_is_in_this_suite() -> None:
    assert list_families() == sorted([*HOSTS, *UNTESTED])


BATCHES: dict[str, dict[str, Any]] = {
    "one row": {"rows": [[5, -6, 6]]},
    "one row without a mask": {"rows": [[5, -6, 6]], "mask": False},
    "padding on the left": {"rows": [[5, -6, 6], [9, -6, 3]]},
    "padding on the left, without a mask": {"rows": [[5, -6, 6], [9, -6, 3]], "mask": False},
    "padding on the right": {"rows": [[5, -6, 6], [9, -6, 3]], "side": "right"},
}


def test_identity_is_bit_identical_to_the_bare_host(host: Host) -> None:
    check_identity(host)


def check_identity(host: Host) -> None:
    for case, arguments in BATCHES.items():
        batch = host.batch(*arguments["rows"], **without(arguments, "rows"))
        bare = host.model(**batch.inputs).logits
        with framefold.attach(host.model, KEEPING()):
            assert torch.equal(host.model(**batch.attached_inputs).logits, bare), case
        assert torch.equal(host.model(**batch.inputs).logits, bare), case


def logits_of(host: Host, compressor: Any, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    """Return the logits of the host with the compressor, whose parameters are perturbed."""
    with framefold.attach(host.model, compressor, **options), torch.no_grad():
        perturb(compressor)
        return host.model(**inputs).logits


def test_dropping_tokens_equals_a_prompt_without_them(host: Host) -> None:
    check_dropping(host, *DROPPING)


def check_dropping(host: Host, *cases: str) -> None:
    for side, case in product(("left", "right"), cases):
        compressor = DROPPING[case]()
        batch = host.batch([5, -6, 6], [9, -6, 3], side=side)
        shorts = shorten(batch, compressor)
        assert all(len(short.columns) < length for short, length in zip(shorts, batch.lengths, strict=True))
        found = rows_of(logits_of(host, compressor, batch.attached_inputs), shorts, side)
        assert max_difference(found, run_kept(batch, shorts)) < TOLERANCE, (side, case)
        rows = zip(batch.rows_alone, shorts, strict=True)
        everything = [host.model(**row.inputs).logits[0, short.columns] for row, short in rows]
        assert max_difference(found, everything) > CONTROL, (side, case)  # the dropped tokens do matter


def test_eager_attention_gives_the_same_guarantees(host: Host) -> None:
    """Its masks differ from those of sdpa; nothing else in this suite depends on the implementation."""
    eager = build(host.name, "eager")
    check_identity(eager)
    check_dropping(eager, "different counts")


def test_every_token_has_the_position_of_its_anchor(host: Host) -> None:
    """The reference is the language model with inputs built by hand, since masking cannot express merged tokens."""
    for side, (case, make) in product(("left", "right"), COMPRESSING.items()):
        compressor = make()
        batch = host.batch([5, -6, 6], [9, -4, 3], side=side)
        found = logits_of(host, compressor, batch.attached_inputs)
        shorts = shorten(batch, compressor)
        expected = [run_short(host, short) for short in shorts]
        assert max_difference(rows_of(found, shorts, side), expected) < TOLERANCE, (side, case)


def mistakes(host: Host, short: ShortRow) -> dict[str, ShortRow]:
    """Return the row with various values at wrong places."""
    numbers = torch.arange(len(short.columns)).expand_as(short.positions)
    shifted = torch.where(short.visual, short.positions + 1, short.positions)
    out = {"renumbered": replace(short, positions=numbers), "anchors off by one": replace(short, positions=shifted)}
    if host.name in MROPE_HOSTS:
        out["height and width exchanged"] = replace(short, positions=short.positions[[0, 2, 1]])
        out["time and height exchanged"] = replace(short, positions=short.positions[[1, 0, 2]])
    if short.layers:
        out["deepstack layers exchanged"] = replace(short, layers=short.layers[::-1])
        rolled = [layer.clone() for layer in short.layers]
        for layer in rolled:
            layer[short.visual] = layer[short.visual].roll(1, 0)
        out["deepstack off by one token"] = replace(short, layers=rolled)
        out["no deepstack"] = replace(short, layers=[])
    return out


def test_wrong_positions_and_layers_would_be_noticed(host: Host) -> None:
    """Control of the tests above."""
    compressor = framefold.build("uniform", 0.25)
    batch = host.batch([5, -6, 6])
    found = logits_of(host, compressor, batch.attached_inputs)[0]
    (short,) = shorten(batch, compressor)
    assert (found - run_short(host, short)).abs().max() < TOLERANCE
    differences = {
        name: float((found - run_short(host, row)).abs().max()) for name, row in mistakes(host, short).items()
    }
    assert min(differences.values()) > CONTROL, differences
    columns = torch.arange(batch.inputs["input_ids"].shape[1])
    doubled = columns.expand(3, 1, -1) * 2 if host.name in MROPE_HOSTS else columns[None] * 2
    (masked,) = run_kept(batch, [short], doubled)
    assert (found - masked).abs().max() > CONTROL


def test_compact_positions_number_the_shorter_prompt_like_text(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -4, 3])
    for case, make in COMPRESSING.items():
        compressor = make()
        logits = logits_of(host, compressor, batch.attached_inputs, positions="compact")
        shorts = shorten(batch, compressor)
        numbered = [replace(s, positions=torch.arange(len(s.columns)).expand_as(s.positions)) for s in shorts]
        found = rows_of(logits, shorts, "left")
        assert max_difference(found, [run_short(host, short) for short in numbered]) < TOLERANCE, case
        assert max_difference(found, [run_short(host, short) for short in shorts]) > CONTROL, case


def test_positions_of_the_caller_move_with_their_columns(host: Host) -> None:
    compressor = framefold.build("uniform", 0.25)
    batch = host.batch([5, -6, 6])
    shorts = shorten(batch, compressor)
    positions = torch.arange(batch.inputs["input_ids"].shape[1])[None] * 2 + 3
    if host.name in MROPE_HOSTS:
        positions = torch.stack([positions, positions + 1, positions * 2])
    found = logits_of(host, compressor, batch.attached_inputs | {"position_ids": positions})[0]
    assert max_difference([found], run_kept(batch, shorts, positions)) < TOLERANCE
    assert max_difference([found], run_kept(batch, shorts)) > CONTROL


def test_rows_with_two_one_and_no_video_equal_each_row_alone(host: Host) -> None:
    compressor = AboveMean()
    batch = host.batch([4, -4, 3, -4, 2], [12], [1, -4, 6], side="right")
    shorts = shorten(batch, compressor)
    found = rows_of(logits_of(host, compressor, batch.attached_inputs), shorts, "right")
    assert max_difference(found, [run_short(host, short) for short in shorts]) < TOLERANCE
    alone = [logits_of(host, compressor, row.attached_inputs)[0] for row in batch.rows_alone]
    assert max_difference(found, alone) < TOLERANCE


def test_batches_without_raw_video_are_unchanged(host: Host) -> None:
    text, encoded = host.batch([9]).inputs, with_encoded_video(host)
    bare = [host.model(**inputs).logits for inputs in (text, encoded)]
    tokens = [host.model.generate(**inputs, max_new_tokens=3) for inputs in (text, encoded)]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert all(map(torch.equal, [host.model(**inputs).logits for inputs in (text, encoded)], bare))
        again = [host.model.generate(**inputs, max_new_tokens=3) for inputs in (text, encoded)]
    assert all(map(torch.equal, again, tokens))


def with_encoded_video(host: Host) -> dict[str, Any]:
    """Return a prompt whose video the caller has encoded with the host's own method."""
    inputs = host.batch([5, -4, 3]).inputs
    modality = "image" if host.name in IMAGE_RUN_HOSTS else "video"
    features = features_of(host.model, modality, inputs)
    raw = (
        name for name in get_family(host.name).vision_inputs if name not in ("video_grid_thw", "video_second_per_grid")
    )
    return without(inputs, *raw) | {"mm_encoder_outputs": {modality: features}}


def test_every_argument_with_one_value_per_column_is_shortened(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -4, 3])
    inputs = batch.attached_inputs | {"token_type_ids": (batch.inputs["input_ids"] > 30).int()}
    kwargs = prepare(host.model, inputs, AboveMean()).kwargs
    ids, mask = kwargs["input_ids"], kwargs["attention_mask"].bool()
    assert ids.shape[1] < inputs["input_ids"].shape[1] and mask.sum() < mask.numel()
    assert not (set(kwargs) & {"pixel_values_videos", "pixel_values", "video_grid_thw", "video_merge_sizes", "clips"})
    if "mm_token_type_ids" in batch.inputs:
        assert torch.equal(kwargs["mm_token_type_ids"], (ids == host.tiny.placeholder).int() * host.tiny.video_type)
    assert torch.equal(kwargs["token_type_ids"][mask], (ids > 30).int()[mask])
    assert kwargs["position_ids"].shape[-2:] == ids.shape


def test_features_encoded_once_serve_several_compressors(host: Host) -> None:
    model, inputs = host.model, host.batch([5, -6, 6], [9, -4, 3]).attached_inputs
    encoded = encode(model, inputs)
    assert [tuple(video.features.shape) for video in encoded] == [(t, *host.tiny.grid, 32) for t in (6, 4)]
    assert not encoded[0].features.requires_grad
    pixels = "pixel_values" if host.name in IMAGE_RUN_HOSTS else "pixel_values_videos"
    for compressor in (framefold.build("uniform", 0.25), ScaledMerge()):
        compressor.materialize(32, host.tiny.grid)
        perturb(compressor)
        with torch.no_grad():
            cached = prepare(model, without(inputs, pixels), compressor, encoded=encoded)
            new = prepare(model, inputs, compressor, generation=True)
        assert pixels not in cached.kwargs and [len(t) for t in new.tokens] == [len(t) for t in cached.tokens]
        tokens = model.generate(**new.kwargs, max_new_tokens=2)[:, -2:]
        with framefold.attach(model, compressor), torch.no_grad():
            assert torch.equal(model(**cached.kwargs).logits, model(**inputs).logits)
            assert torch.equal(model.generate(**inputs, max_new_tokens=2)[:, -2:], tokens)


@pytest.mark.parametrize("name", HOSTS)
def test_bf16_identity_is_bit_identical_and_dropping_is_exact_up_to_rounding(name: str) -> None:
    host = build(name, dtype=torch.bfloat16)
    batch = host.batch([5, -6, 6], [9, -6, 3])
    bare = host.model(**batch.inputs).logits
    assert torch.equal(logits_of(host, KEEPING(), batch.attached_inputs), bare)
    for case, make in DROPPING.items():
        compressor = make()
        shorts = shorten(batch, compressor)
        found = rows_of(logits_of(host, compressor, batch.attached_inputs), shorts, "left")
        assert relative_error(found, run_kept(batch, shorts)) < 0.02, case
        renumbered = [run_short(host, mistakes(host, short)["renumbered"]) for short in shorts]
        assert relative_error(found, renumbered) > 0.1, case
