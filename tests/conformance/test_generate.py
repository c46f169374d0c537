"""Every family: ``generate`` of an attached host equals whole forwards, by every way to decode and in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import (
    BEAMS_FAIL,
    MATRIX,
    MROPE,
    OLD,
    Batch,
    Host,
    build,
    compressors,
    listening,
    stir,
)
from tests.support.hosts.oracles import TOLERANCE
from tests.support.hosts.tiny_families import HOSTS
from tests.support.hosts.tiny_hosts import without

NEW = 4  # tokens
ROWS: dict[str, list[list[int]]] = {"one": [[5, -6, 6]], "two": [[5, -6, 6], [9, -4, 3]]}


@pytest.fixture(scope="module", params=MATRIX, ids="-".join)
def host(request: pytest.FixtureRequest) -> Host:
    return build(*request.param)


def new_tokens(host: Host, inputs: dict[str, Any], **arguments: Any) -> Tensor:
    """What generate adds to the prompts."""
    tokens = host.model.generate(**inputs, **{"max_new_tokens": NEW} | arguments)
    return tokens[:, inputs["input_ids"].shape[1] :]


CASES: dict[str, dict[str, Any]] = {
    "one": {"rows": [[5, -6, 6]]},
    "one without a mask": {"rows": [[5, -6, 6]], "mask": False},
    "two padded left": {"rows": [[5, -6, 6], [9, -6, 3]]},
    "two padded left, without a mask": {"rows": [[5, -6, 6], [9, -6, 3]], "mask": False},
    "two padded right": {"rows": [[5, -6, 6], [9, -6, 3]], "side": "right"},
}


@pytest.mark.parametrize("case", CASES)
def test_identity_generates_exactly_what_the_bare_host_does(host: Host, case: str) -> None:
    """Scores too, to the bit."""
    batch = host.batch(*CASES[case]["rows"], **without(CASES[case], "rows"))
    told = {"max_new_tokens": NEW, "output_logits": True, "return_dict_in_generate": True}
    beams = [] if host.name in BEAMS_FAIL or case != "two padded left" else [3]

    def run(inputs: dict[str, Any]) -> list[Tensor]:
        out = host.model.generate(**inputs, **told)
        searched = [host.model.generate(**inputs, max_new_tokens=NEW, num_beams=n) for n in beams]
        return [out.sequences, *out.logits, *searched]

    bare = run(batch.inputs)
    host.model(**host.batch([2, -2, 9]).inputs)  # M-RoPE hosts count on from the last video that they have seen
    with framefold.attach(host.model, framefold.build("identity")):
        assert all(map(torch.equal, run(batch.plugged), bare))
    assert all(map(torch.equal, run(batch.inputs), bare))


@pytest.mark.parametrize("name", HOSTS)
def test_in_bf16_identity_generates_exactly_what_the_bare_host_does(name: str) -> None:
    host = build(name, dtype=torch.bfloat16)
    batch = host.batch(*ROWS["one"])
    bare = new_tokens(host, batch.inputs)
    with framefold.attach(host.model, framefold.build("identity")):
        assert torch.equal(new_tokens(host, batch.plugged), bare)


def positions_in_generate(host: Host, inputs: dict[str, Any]) -> list[Tensor]:
    """What the language model is given for the prompt, then for each new token but the last."""
    seen: list[Tensor] = []
    with listening(host, lambda kwargs: seen.append(kwargs["position_ids"])):
        host.model.generate(**inputs, max_new_tokens=3)
    return seen


@pytest.mark.parametrize("rows", [[[5, -6, 6]], [[5, -6, 6], [9, -6, 3]]], ids=["one", "two"])
def test_the_language_model_gets_the_positions_of_the_bare_host(host: Host, rows: Any) -> None:
    """The row of text positions that M-RoPE hosts get beside the axes has no gaps where tokens were dropped.

    They make attention masks from it, and flash attention takes gaps for the borders of packed prompts; no result on a
    CPU would show that.
    """
    batch = host.batch(*rows)
    bare = positions_in_generate(host, batch.inputs)
    with framefold.attach(host.model, framefold.build("identity")):
        assert all(map(torch.equal, positions_in_generate(host, batch.plugged), bare))
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        short = positions_in_generate(host, batch.plugged)
    assert short[0].shape[-1] < bare[0].shape[-1]
    if host.name in MROPE:
        text, short, bare = [step[0] for step in short], [step[1:] for step in short], [step[1:] for step in bare]
        for row in torch.cat(text, dim=1).tolist():
            start = row.count(0) - 1
            assert row[start:] == list(range(len(row) - start))
    assert all(torch.equal(found[..., -1], full[..., -1]) for found, full in zip(short, bare, strict=True))


STEPPED = [
    ("uniform", "one", "preserve"),
    ("st_simdiff", "two", "preserve"),
    ("fila", "two", "preserve"),
    ("above_mean", "two", "preserve"),
    ("above_mean", "two", "compact"),
    ("pool", "one", "compact"),
]


@pytest.mark.parametrize(("name", "rows", "positions"), STEPPED, ids=map("-".join, STEPPED))
def test_cached_generation_equals_recomputing_every_step(host: Host, name: str, rows: str, positions: Any) -> None:
    batch = host.batch(*ROWS[rows])
    with framefold.attach(host.model, compressors()[name](), positions=positions), torch.no_grad():
        stir(host.model.compressor)
        told = {"max_new_tokens": NEW, "output_logits": True, "return_dict_in_generate": True}
        out = host.model.generate(**batch.plugged, **told)
        tokens = out.sequences[:, -NEW:]
        assert torch.equal(out.sequences[:, :-NEW], batch.inputs["input_ids"])  # the caller's prompt comes back
        for step, logits in enumerate(out.logits):
            again = host.model(**batch.with_tokens(tokens[:, :step]).plugged, logits_to_keep=1).logits[:, -1]
            assert (logits - again).abs().max() < TOLERANCE
            assert torch.equal(again.argmax(-1), tokens[:, step])


@pytest.mark.parametrize("positions", ["preserve", "compact"])
@pytest.mark.parametrize("mask", ["mask", "mask for the prompt only", "no mask"])
def test_a_hand_written_decode_loop_equals_recomputation(host: Host, mask: str, positions: Any) -> None:
    """Bare hosts with M-RoPE take wrong positions in a loop with a mask, so the oracle is the attached host itself."""
    batch = host.batch(*ROWS["one" if mask == "no mask" else "two"], mask=mask != "no mask")
    compressor = compressors()["above_mean"]()
    with framefold.attach(host.model, compressor, positions=positions), torch.no_grad():
        out = host.model(**batch.plugged, use_cache=True)
        for _ in range(3):
            batch = batch.with_tokens(out.logits[:, -1:].argmax(-1))
            more = {"attention_mask": batch.inputs["attention_mask"]} if mask == "mask" else {}
            ids = batch.inputs["input_ids"][:, -1:]
            out = host.model(input_ids=ids, past_key_values=out.past_key_values, **more)
            again = host.model(**batch.plugged).logits[:, -1]
            assert (out.logits[:, -1] - again).abs().max() < TOLERANCE


@pytest.mark.parametrize("rows", ROWS)
def test_with_identity_a_hand_written_decode_loop_is_the_bare_hosts(host: Host, rows: str) -> None:
    """Without masks for the steps, which bare hosts with M-RoPE do not take."""
    batch = host.batch([5, -6, 6], *([[9, -6, 3]] if rows == "two" else []))

    def run(inputs: dict[str, Any]) -> list[Tensor]:
        out = host.model(**inputs, use_cache=True)
        then = host.model(input_ids=torch.full((len(batch.rows), 2), 7), past_key_values=out.past_key_values)
        return [out.logits, then.logits]

    bare = run(batch.inputs)
    host.model(**host.batch([2, -2, 9]).inputs)  # M-RoPE hosts count on from the last video that they have seen
    with framefold.attach(host.model, framefold.build("identity")):
        assert all(map(torch.equal, run(batch.plugged), bare))


def test_the_cache_that_generate_returns_goes_on(host: Host) -> None:
    """Of one row: with padding even a bare 1-D host counts columns in a forward, and tokens in generate before it."""
    batch = host.batch(*ROWS["one"])
    with framefold.attach(host.model, compressors()["above_mean"]()), torch.no_grad():
        out = host.model.generate(**batch.plugged, max_new_tokens=3, return_dict_in_generate=True)
        longer = batch.with_tokens(torch.cat([out.sequences[:, -3:], torch.tensor([[7]])], dim=1))
        found = host.model(input_ids=longer.inputs["input_ids"][:, -2:], past_key_values=out.past_key_values).logits
        assert (found - host.model(**longer.plugged).logits[:, -2:]).abs().max() < TOLERANCE


def test_several_tokens_at_once_continue_a_compressed_prompt(host: Host) -> None:
    batch = host.batch(*ROWS["two"])
    with framefold.attach(host.model, compressors()["above_mean"]()), torch.no_grad():
        out = host.model(**batch.plugged, use_cache=True)
        longer = batch.with_tokens(torch.tensor([[5, 6, 7], [8, 9, 10]]))
        mask = longer.inputs["attention_mask"]
        steps = {"input_ids": longer.inputs["input_ids"][:, -3:], "attention_mask": mask}
        found = host.model(**steps, past_key_values=out.past_key_values).logits
        assert (found - host.model(**longer.plugged).logits[:, -3:]).abs().max() < TOLERANCE


VARIANTS: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 7},
    "static cache and chunked prefill": {"cache_implementation": "static", "prefill_chunk_size": 7},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", ROWS)
def test_every_way_to_generate_gives_the_same_tokens(host: Host, rows: str, variant: str) -> None:
    inputs = host.batch(*ROWS[rows]).plugged
    with framefold.attach(host.model, compressors()["above_mean"]()):
        if OLD and "prefill_chunk_size" in VARIANTS[variant]:  # the bare host goes wrong there, without an error
            with pytest.raises(InputError, match="install transformers>=5.23"):
                new_tokens(host, inputs, **VARIANTS[variant])
            return
        expected = new_tokens(host, inputs)
        assert torch.equal(new_tokens(host, inputs, **VARIANTS[variant]), expected)


def test_a_prompt_that_ends_in_a_video_is_refused_where_its_end_is_dropped(host: Host) -> None:
    inputs = host.batch([5, -6], [4, -2, 5]).plugged
    with framefold.attach(host.model, framefold.build("identity")):
        assert new_tokens(host, inputs).shape[0] == 2
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        if host.tiny.video(1)[-1] != host.tiny.placeholder or host.name in ("llava_onevision",):
            assert new_tokens(host, inputs).shape[0] == 2  # the mark of a frame's end and the newline token stay
            return
        with pytest.raises(InputError, match=r"prompts \[0\] end in a video"):
            new_tokens(host, inputs)
    with framefold.attach(host.model, framefold.build("uniform", 0.25), positions="compact"):
        assert new_tokens(host, inputs).shape[0] == 2


def test_what_a_call_says_of_videos_does_not_disturb_a_batch_without_any(host: Host) -> None:
    text = host.batch([9], [6]).inputs
    more = {"query": torch.ones(2, 32), "times": [], "clips": []}
    bare = host.model(**text).logits, new_tokens(host, text)
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert torch.equal(host.model(**text, **more).logits, bare[0])
        assert torch.equal(new_tokens(host, text, **more), bare[1])


def test_lengths_lookup_and_positional_ids_are_the_callers(host: Host) -> None:
    inputs = host.batch(*ROWS["one"]).plugged
    length = inputs["input_ids"].shape[1]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        expected = new_tokens(host, inputs, max_new_tokens=8)
        assert expected.shape == (1, 8)
        assert torch.equal(new_tokens(host, inputs, max_new_tokens=8, prompt_lookup_num_tokens=2), expected)
        assert torch.equal(new_tokens(host, inputs, max_new_tokens=None, max_length=length + 8), expected)
        positional = host.model.generate(inputs["input_ids"], **without(inputs, "input_ids"), max_new_tokens=8)
        assert torch.equal(positional[:, -8:], expected)


def test_every_returned_sequence_has_its_prompt_in_front(host: Host) -> None:
    inputs = host.batch(*ROWS["two"]).plugged
    ids = inputs["input_ids"]
    arguments = {"max_new_tokens": 3, "num_beams": 4, "num_return_sequences": 2}
    with framefold.attach(host.model, compressors()["above_mean"]()):
        out = host.model.generate(**inputs, **arguments, return_dict_in_generate=True, output_scores=True)
        assert torch.equal(out.sequences, host.model.generate(**inputs, **arguments))
        best = new_tokens(host, inputs, max_new_tokens=3, num_beams=4)
    assert out.sequences.shape == (4, ids.shape[1] + 3)
    assert torch.equal(out.sequences[:, :-3], ids.repeat_interleave(2, dim=0))
    assert torch.equal(out.sequences[::2, -3:], best) and not torch.equal(out.sequences[1::2, -3:], best)


RAGGED = [[5, -6, 6], [9, -4, 3], [14], [4, -4, 3, -4, 2]]  # one video, a shorter one, none, two


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("rows", [RAGGED, RAGGED[:2], RAGGED[1:3]], ids=["four", "two", "one without a video"])
def test_a_ragged_batch_generates_what_each_row_generates_alone(host: Host, rows: Any, arguments: Any) -> None:
    batch: Batch = host.batch(*rows)
    with framefold.attach(host.model, compressors()["above_mean"]()):
        together = new_tokens(host, batch.plugged, **arguments)
        alone = [new_tokens(host, row.plugged, **arguments) for row in batch.singles]
    assert torch.equal(together, torch.cat(alone))


def test_rows_of_one_length_that_become_ragged_are_padded_on_the_left(host: Host) -> None:
    """Nothing tells the side then: the prompts came without padding, and the compressor keeps more of one of them."""
    batch = host.batch([5, -6, 6], [8, -6, 3], [1, -6, 10])
    assert len(set(batch.lengths)) == 1
    with framefold.attach(host.model, compressors()["above_mean"]()):
        together = new_tokens(host, without(batch.plugged, "attention_mask"))
        alone = [new_tokens(host, row.plugged) for row in batch.singles]
        kept = [host.model(**row.plugged).logits.shape[1] for row in batch.singles]
    assert len(set(kept)) > 1 and torch.equal(together, torch.cat(alone))
