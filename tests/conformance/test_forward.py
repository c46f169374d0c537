"""Every family: a forward of the attached host is the bare host's, of the tokens that stayed and of no others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts import encode, list_families, prepare
from tests.support.hosts.bare_hosts import CLIP_HOSTS, MATRIX, MROPE, Host, build, compressors, stir
from tests.support.hosts.oracles import TOLERANCE, WIDE, Short, relative, rows_of, run_masked, run_short, shorten, worst
from tests.support.hosts.tiny_families import HOSTS
from tests.support.hosts.tiny_hosts import without

PRUNING = ["uniform", "st_simdiff", "above_mean"]  # these leave the features alone


@pytest.fixture(scope="module", params=MATRIX, ids="-".join)
def host(request: pytest.FixtureRequest) -> Host:
    return build(*request.param)


def test_every_registered_family_has_its_rows_in_this_suite() -> None:
    assert list_families() == sorted(HOSTS)
    assert {name for name, _ in MATRIX} == set(HOSTS)


CASES: dict[str, dict[str, Any]] = {
    "one": {"rows": [[5, -6, 6]]},
    "one without a mask": {"rows": [[5, -6, 6]], "mask": False},
    "two padded left": {"rows": [[5, -6, 6], [9, -6, 3]]},
    "two padded left, without a mask": {"rows": [[5, -6, 6], [9, -6, 3]], "mask": False},
    "two padded right": {"rows": [[5, -6, 6], [9, -6, 3]], "side": "right"},
}


@pytest.mark.parametrize("case", CASES)
def test_identity_is_bit_identical_to_the_bare_host(host: Host, case: str) -> None:
    batch = host.batch(*CASES[case]["rows"], **without(CASES[case], "rows"))
    bare = host.model(**batch.inputs).logits
    with framefold.attach(host.model, framefold.build("identity")):
        assert torch.equal(host.model(**batch.plugged).logits, bare)
    assert torch.equal(host.model(**batch.inputs).logits, bare)


def attached(host: Host, compressor: Any, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    """Logits of the host with the compressor, which is moved away from where it starts."""
    with framefold.attach(host.model, compressor, **options), torch.no_grad():
        stir(compressor)
        return host.model(**inputs).logits


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", PRUNING)
def test_pruning_equals_the_host_with_the_dropped_columns_masked_out(host: Host, name: str, side: str) -> None:
    compressor = compressors()[name]()
    batch = host.batch([5, -6, 6], [9, -6, 3], side=side)
    shorts = shorten(batch, compressor)
    assert all(len(short.columns) < length for short, length in zip(shorts, batch.lengths, strict=True))
    found = rows_of(attached(host, compressor, batch.plugged), shorts, side)
    assert worst(found, run_masked(batch, shorts)) < TOLERANCE
    everything = [
        host.model(**row.inputs).logits[0, short.columns] for row, short in zip(batch.singles, shorts, strict=True)
    ]
    assert worst(found, everything) > WIDE  # the dropped tokens do matter


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [name for name in compressors() if name != "identity"])
def test_every_token_lies_at_the_position_of_its_anchor(host: Host, name: str, side: str) -> None:
    """Masking is no oracle for what merges or scales tokens; the language model alone, fed by hand, is one for all."""
    compressor = compressors()[name]()
    batch = host.batch([5, -6, 6], [9, -4, 3], side=side)
    logits = attached(host, compressor, batch.plugged)
    shorts = shorten(batch, compressor)
    assert worst(rows_of(logits, shorts, side), [run_short(host, short) for short in shorts]) < TOLERANCE


def wrong(host: Host, short: Short) -> dict[str, Short]:
    """The row with something at the wrong place."""
    numbers = torch.arange(len(short.columns)).expand_as(short.positions)
    beside = torch.where(short.visual, short.positions + 1, short.positions)
    out = {"renumbered": replace(short, positions=numbers), "anchors off by one": replace(short, positions=beside)}
    if host.name in MROPE:
        out["height and width exchanged"] = replace(short, positions=short.positions[[0, 2, 1]])
        out["time and height exchanged"] = replace(short, positions=short.positions[[1, 0, 2]])
    if short.layers:
        out["deepstack layers exchanged"] = replace(short, layers=short.layers[::-1])
        shifted = [layer.clone() for layer in short.layers]
        for layer in shifted:
            layer[short.visual] = layer[short.visual].roll(1, 0)
        out["deepstack off by one token"] = replace(short, layers=shifted)
        out["no deepstack"] = replace(short, layers=[])
    return out


def test_wrong_positions_and_layers_would_be_noticed(host: Host) -> None:
    """The control of the tests above."""
    compressor = framefold.build("uniform", 0.25)
    batch = host.batch([5, -6, 6])
    found = attached(host, compressor, batch.plugged)[0]
    (short,) = shorten(batch, compressor)
    assert (found - run_short(host, short)).abs().max() < TOLERANCE
    differences = {name: float((found - run_short(host, bad)).abs().max()) for name, bad in wrong(host, short).items()}
    assert min(differences.values()) > WIDE, differences
    columns = torch.arange(batch.inputs["input_ids"].shape[1])
    (renumbered,) = run_masked(
        batch, [short], columns.expand(3, 1, -1) * 2 if host.name in MROPE else columns[None] * 2
    )
    assert (found - renumbered).abs().max() > WIDE


@pytest.mark.parametrize("name", ["uniform", "fila", "above_mean"])
def test_compact_positions_number_the_shorter_prompt_like_text(host: Host, name: str) -> None:
    compressor = compressors()[name]()
    batch = host.batch([5, -6, 6], [9, -4, 3])
    logits = attached(host, compressor, batch.plugged, positions="compact")
    shorts = shorten(batch, compressor)
    numbered = [replace(s, positions=torch.arange(len(s.columns)).expand_as(s.positions)) for s in shorts]
    found = rows_of(logits, shorts, "left")
    assert worst(found, [run_short(host, short) for short in numbered]) < TOLERANCE
    assert worst(found, [run_short(host, short) for short in shorts]) > WIDE


def test_the_callers_positions_are_carried_along(host: Host) -> None:
    compressor = framefold.build("uniform", 0.25)
    batch = host.batch([5, -6, 6])
    shorts = shorten(batch, compressor)
    positions = torch.arange(batch.inputs["input_ids"].shape[1])[None] * 2 + 3
    if host.name in MROPE:
        positions = torch.stack([positions, positions + 1, positions * 2])
    found = attached(host, compressor, batch.plugged | {"position_ids": positions})[0]
    assert worst([found], run_masked(batch, shorts, positions)) < TOLERANCE
    assert worst([found], run_masked(batch, shorts)) > WIDE


def test_several_videos_and_none_in_a_row_equal_each_row_alone(host: Host) -> None:
    compressor = compressors()["above_mean"]()
    batch = host.batch([4, -4, 3, -4, 2], [12], [1, -4, 6], side="right")
    shorts = shorten(batch, compressor)
    logits = attached(host, compressor, batch.plugged)
    found = rows_of(logits, shorts, "right")
    assert worst(found, [run_short(host, short) for short in shorts]) < TOLERANCE
    alone = [attached(host, compressor, row.plugged)[0] for row in batch.singles]
    assert worst(found, alone) < TOLERANCE


def test_batches_without_raw_video_pass_untouched(host: Host) -> None:
    text, encoded = host.batch([9]).inputs, encoded_by_the_host(host)
    bare = [host.model(**inputs).logits for inputs in (text, encoded)]
    tokens = [host.model.generate(**inputs, max_new_tokens=3) for inputs in (text, encoded)]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert all(map(torch.equal, [host.model(**inputs).logits for inputs in (text, encoded)], bare))
        again = [host.model.generate(**inputs, max_new_tokens=3) for inputs in (text, encoded)]
    assert all(map(torch.equal, again, tokens))


def encoded_by_the_host(host: Host) -> dict[str, Any]:
    """A prompt whose video the caller has encoded."""
    inputs = host.batch([5, -4, 3]).inputs
    modality = "image" if host.name in CLIP_HOSTS else "video"
    named = [name for name in ("pixel_values_videos", "pixel_values", "video_merge_sizes") if name in inputs]
    grids = {"video_grid_thw": inputs["video_grid_thw"]} if "video_grid_thw" in inputs else {}
    function = getattr(host.model.base_model, f"get_{modality}_features")
    features = function(**{name: inputs[name] for name in named} | grids, return_dict=True)
    return without(inputs, *named) | {"mm_encoder_outputs": {modality: features}}


def test_every_argument_with_one_value_a_column_is_shortened(host: Host) -> None:
    batch = host.batch([5, -6, 6], [9, -4, 3])
    inputs = batch.plugged | {"token_type_ids": (batch.inputs["input_ids"] > 30).int()}
    kwargs = prepare(host.model, inputs, compressors()["above_mean"]()).kwargs
    ids, mask = kwargs["input_ids"], kwargs["attention_mask"].bool()
    assert ids.shape[1] < inputs["input_ids"].shape[1] and mask.sum() < mask.numel()
    assert not (set(kwargs) & {"pixel_values_videos", "pixel_values", "video_grid_thw", "video_merge_sizes", "clips"})
    if "mm_token_type_ids" in batch.inputs:
        assert torch.equal(kwargs["mm_token_type_ids"], (ids == host.tiny.placeholder).int() * 2)
    assert torch.equal(kwargs["token_type_ids"][mask], (ids > 30).int()[mask])
    assert kwargs["position_ids"].shape[-2:] == ids.shape


def test_features_encoded_once_serve_many_compressors(host: Host) -> None:
    model, inputs = host.model, host.batch([5, -6, 6], [9, -4, 3]).plugged
    encoded = encode(model, inputs)
    assert [tuple(e.features.shape) for e in encoded] == [(t, *host.tiny.grid, 32) for t in (6, 4)]
    assert not encoded[0].features.requires_grad
    pixels = "pixel_values" if host.name in CLIP_HOSTS else "pixel_values_videos"
    for name, budget in (("uniform", 0.25), ("pool", 5)):
        compressor = framefold.build(name, budget)
        cached = prepare(model, without(inputs, pixels), compressor, encoded=encoded)
        new = prepare(model, inputs, compressor, generation=True)
        assert pixels not in cached.kwargs and [len(t) for t in new.tokens] == [len(t) for t in cached.tokens]
        tokens = model.generate(**new.kwargs, max_new_tokens=2)[:, -2:]
        with framefold.attach(model, compressor):
            assert torch.equal(model(**cached.kwargs).logits, model(**inputs).logits)
            assert torch.equal(model.generate(**inputs, max_new_tokens=2)[:, -2:], tokens)


@pytest.mark.parametrize("name", HOSTS)
def test_in_bf16_identity_is_bit_identical_and_pruning_is_masking_up_to_rounding(name: str) -> None:
    host = build(name, dtype=torch.bfloat16)
    batch = host.batch([5, -6, 6], [9, -6, 3])
    bare = host.model(**batch.inputs).logits
    assert torch.equal(attached(host, framefold.build("identity"), batch.plugged), bare)
    for kind in PRUNING:
        compressor = compressors()[kind]()
        shorts = shorten(batch, compressor)
        found = rows_of(attached(host, compressor, batch.plugged), shorts, "left")
        assert relative(found, run_masked(batch, shorts)) < 0.02
        renumbered = [run_short(host, wrong(host, short)["renumbered"]) for short in shorts]
        assert relative(found, renumbered) > 0.1
