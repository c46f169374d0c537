"""Every family: ``generate`` of an attached host equals full forwards, for every way to decode and in any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import framefold
from framefold.adapters.hosts.base.family import family_of
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import (
    BEAMS_DIFFER,
    BEAMS_FAIL,
    KEEPING,
    MROPE_HOSTS,
    OLD,
    RECURRENT_HOSTS,
    AboveMean,
    Host,
    ScaledMerge,
    build,
    perturb,
    recording_calls,
)
from tests.support.hosts.oracles import TOLERANCE
from tests.support.hosts.tiny_families import HOSTS, without

NEW = 3  # tokens: one from the prompt, two from the cache
ROWS: dict[str, list[list[int]]] = {"one": [[5, -6, 6]], "two": [[5, -6, 6], [9, -4, 3]]}
LOGITS = {"max_new_tokens": NEW, "output_logits": True, "return_dict_in_generate": True}


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    return build(request.param)


def new_tokens(host: Host, inputs: dict[str, Any], **arguments: Any) -> Tensor:
    """Return the tokens that generate adds to the prompts."""
    tokens = host.model.generate(**inputs, **{"max_new_tokens": NEW} | arguments)
    return tokens[:, inputs["input_ids"].shape[1] :]


BATCHES: dict[str, dict[str, Any]] = {
    "one row": {"rows": [[5, -6, 6]]},
    "one row without a mask": {"rows": [[5, -6, 6]], "mask": False},
    "padding on the left": {"rows": [[5, -6, 6], [9, -6, 3]]},
    "padding on the left, without a mask": {"rows": [[5, -6, 6], [9, -6, 3]], "mask": False},
    "padding on the right": {"rows": [[5, -6, 6], [9, -6, 3]], "side": "right"},
}


def test_identity_generates_the_same_tokens_and_scores_as_the_bare_host(host: Host) -> None:
    check_identity(host, list(BATCHES))


def test_eager_attention_gives_the_same_guarantee(host: Host) -> None:
    """Its masks differ from those of sdpa; nothing else in this suite depends on the implementation."""
    check_identity(build(host.name, "eager"), ["one row without a mask", "padding on the left"])


def check_identity(host: Host, cases: list[str]) -> None:
    for case in cases:
        batch = host.batch(*BATCHES[case]["rows"], **without(BATCHES[case], "rows"))
        beams = 1 if host.name in (*BEAMS_FAIL, *BEAMS_DIFFER) or case != "padding on the left" else 3
        bare = tokens_and_scores(host, batch.inputs, beams)
        host.model(**host.batch([2, -2, 9]).inputs)  # M-RoPE hosts keep an offset of the last video
        with framefold.attach(host.model, KEEPING()):
            found = tokens_and_scores(host, batch.attached_inputs, beams)
        assert all(map(torch.equal, found, bare)), case


def tokens_and_scores(host: Host, inputs: dict[str, Any], beams: int) -> list[Tensor]:
    out = host.model.generate(**inputs, **LOGITS)
    searched = [host.model.generate(**inputs, max_new_tokens=NEW, num_beams=beams)] if beams > 1 else []
    return [out.sequences, *out.logits, *searched]


@pytest.mark.parametrize("name", HOSTS)
def test_bf16_identity_generates_the_same_tokens_as_the_bare_host(name: str) -> None:
    host = build(name, dtype=torch.bfloat16)
    batch = host.batch(*ROWS["one"])
    bare = new_tokens(host, batch.inputs)
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(new_tokens(host, batch.attached_inputs), bare)


def positions_in_generate(host: Host, inputs: dict[str, Any]) -> list[Tensor]:
    """Return the positions passed to the language model for the prompt, then for each new token but the last."""
    positions: list[Tensor] = []
    with recording_calls(host, lambda kwargs: positions.append(kwargs["position_ids"])):
        host.model.generate(**inputs, max_new_tokens=3)
    return positions


@pytest.mark.parametrize("rows", [[[5, -6, 6]], [[5, -6, 6], [9, -6, 3]]], ids=["one", "two"])
def test_the_language_model_gets_the_positions_of_the_bare_host(host: Host, rows: Any) -> None:
    """The text positions that M-RoPE hosts get with the axes must have no gaps where tokens were dropped.

    The hosts derive attention masks from them, and flash attention treats gaps as borders of packed prompts. No result
    on a CPU would show that.
    """
    batch = host.batch(*rows)
    bare = positions_in_generate(host, batch.inputs)
    with framefold.attach(host.model, KEEPING()):
        assert all(map(torch.equal, positions_in_generate(host, batch.attached_inputs), bare))
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        short = positions_in_generate(host, batch.attached_inputs)
    assert short[0].shape[-1] < bare[0].shape[-1]
    if host.name in MROPE_HOSTS:
        text, short, bare = [step[0] for step in short], [step[1:] for step in short], [step[1:] for step in bare]
        for row in torch.cat(text, dim=1).tolist():
            start = row.count(0) - 1
            assert row[start:] == list(range(len(row) - start))
    assert all(torch.equal(found[..., -1], full[..., -1]) for found, full in zip(short, bare, strict=True))


STEPPED: list[tuple[Any, str, Any]] = [
    (AboveMean, "one", "preserve"),
    (AboveMean, "two", "preserve"),
    (AboveMean, "two", "compact"),
    (ScaledMerge, "two", "preserve"),
]


def test_cached_generation_equals_recomputing_every_step(host: Host) -> None:
    for make, rows, positions in STEPPED:
        batch = host.batch(*ROWS[rows])
        with framefold.attach(host.model, make(), positions=positions), torch.no_grad():
            perturb(host.model.compressor)
            out = host.model.generate(**batch.attached_inputs, **LOGITS)
            tokens = out.sequences[:, -NEW:]
            assert torch.equal(out.sequences[:, :-NEW], batch.inputs["input_ids"])  # the caller's prompt is returned
            for step, logits in enumerate(out.logits):
                longer = batch.with_tokens(tokens[:, :step]).attached_inputs
                again = host.model(**longer, logits_to_keep=1).logits[:, -1]
                assert (logits - again).abs().max() < TOLERANCE, (make, rows, positions, step)
                assert torch.equal(again.argmax(-1), tokens[:, step]), (make, rows, positions, step)


@pytest.mark.parametrize("mask", ["full mask", "mask of the prompt", "no mask"])
def test_a_decode_loop_equals_recomputation(host: Host, mask: str) -> None:
    """Bare M-RoPE hosts use wrong positions in a loop with a mask, so the reference is the attached host itself."""
    for positions in ("preserve", "compact", *(("all_axes",) if family_of(host.model).videos_span_time else ())):
        batch = host.batch(*ROWS["one" if mask == "no mask" else "two"], mask=mask != "no mask")
        with framefold.attach(host.model, AboveMean(), positions=positions), torch.no_grad():
            out = host.model(**batch.attached_inputs, use_cache=True)
            for _ in range(3):
                batch = batch.with_tokens(out.logits[:, -1:].argmax(-1))
                more = {"attention_mask": batch.inputs["attention_mask"]} if mask == "full mask" else {}
                ids = batch.inputs["input_ids"][:, -1:]
                out = host.model(input_ids=ids, past_key_values=out.past_key_values, **more)
                again = host.model(**batch.attached_inputs).logits[:, -1]
                assert (out.logits[:, -1] - again).abs().max() < TOLERANCE, positions


def test_a_decode_loop_with_identity_is_that_of_the_bare_host(host: Host) -> None:
    """The steps pass no masks, which bare M-RoPE hosts do not accept."""
    for rows in ([[5, -6, 6]], [[5, -6, 6], [9, -6, 3]]):
        batch = host.batch(*rows)

        def run(inputs: dict[str, Any], count: int = len(rows)) -> list[Tensor]:
            out = host.model(**inputs, use_cache=True)
            then = host.model(input_ids=torch.full((count, 2), 7), past_key_values=out.past_key_values)
            return [out.logits, then.logits]

        bare = run(batch.inputs)
        host.model(**host.batch([2, -2, 9]).inputs)  # M-RoPE hosts keep an offset of the last video
        with framefold.attach(host.model, KEEPING()):
            assert all(map(torch.equal, run(batch.attached_inputs), bare)), rows


def test_the_cache_that_generate_returns_can_be_continued(host: Host) -> None:
    """One row only: with padding, bare 1-D hosts count columns in a forward but tokens in generate."""
    batch = host.batch(*ROWS["one"])
    with framefold.attach(host.model, AboveMean()), torch.no_grad():
        out = host.model.generate(**batch.attached_inputs, max_new_tokens=3, return_dict_in_generate=True)
        longer = batch.with_tokens(torch.cat([out.sequences[:, -3:], torch.tensor([[7]])], dim=1))
        found = host.model(input_ids=longer.inputs["input_ids"][:, -2:], past_key_values=out.past_key_values).logits
        assert (found - host.model(**longer.attached_inputs).logits[:, -2:]).abs().max() < TOLERANCE


def test_several_tokens_at_once_continue_a_compressed_prompt(host: Host) -> None:
    batch = host.batch(*ROWS["two"])
    with framefold.attach(host.model, AboveMean()), torch.no_grad():
        out = host.model(**batch.attached_inputs, use_cache=True)
        longer = batch.with_tokens(torch.tensor([[5, 6, 7], [8, 9, 10]]))
        mask = longer.inputs["attention_mask"]
        steps = {"input_ids": longer.inputs["input_ids"][:, -3:], "attention_mask": mask}
        found = host.model(**steps, past_key_values=out.past_key_values).logits
        assert (found - host.model(**longer.attached_inputs).logits[:, -3:]).abs().max() < TOLERANCE


SEES_AHEAD = (
    "gemma4",
    "gemma4_unified",
    "molmo2",
)  # the tokens of a frame see each other, unless a chunk ends between them
VARIANTS: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 7},
    "static cache and chunked prefill": {"cache_implementation": "static", "prefill_chunk_size": 7},
}


def test_every_way_to_generate_returns_the_same_tokens(host: Host) -> None:
    for rows in ROWS.values():
        inputs = host.batch(*rows).attached_inputs
        with framefold.attach(host.model, AboveMean()):
            expected = new_tokens(host, inputs)
            for variant, arguments in VARIANTS.items():
                chunked = "prefill_chunk_size" in arguments
                if chunked and (OLD or host.name in SEES_AHEAD):  # the bare host is wrong there, without an error
                    with pytest.raises(InputError, match="transformers>=5.23" if OLD else "drop prefill_chunk_size"):
                        new_tokens(host, inputs, **arguments)
                else:
                    assert torch.equal(new_tokens(host, inputs, **arguments), expected), (variant, rows)


def test_a_prompt_that_ends_in_a_video_is_refused_if_its_end_is_dropped(host: Host) -> None:
    inputs = host.batch([5, -6], [4, -2, 5]).attached_inputs
    with framefold.attach(host.model, KEEPING()):
        assert new_tokens(host, inputs).shape[0] == 2
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        if host.tiny.video(1)[-1] != host.tiny.placeholder or host.name == "llava_onevision":
            assert new_tokens(host, inputs).shape[0] == 2  # the mark of a frame's end and the newline token are kept
            return
        with pytest.raises(InputError, match=r"prompts \[0\] end in a video"):
            new_tokens(host, inputs)
    with framefold.attach(host.model, framefold.build("uniform", 0.25), positions="compact"):
        assert new_tokens(host, inputs).shape[0] == 2


def test_arguments_for_videos_have_no_effect_on_a_batch_without_any(host: Host) -> None:
    text = host.batch([9], [6]).inputs
    more = {"query": torch.ones(2, 32), "times": [], "clips": []}
    bare = host.model(**text).logits, new_tokens(host, text)
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert torch.equal(host.model(**text, **more).logits, bare[0])
        assert torch.equal(new_tokens(host, text, **more), bare[1])


def test_total_lengths_prompt_lookup_and_positional_ids_refer_to_the_callers_prompt(host: Host) -> None:
    inputs = host.batch(*ROWS["one"]).attached_inputs
    length = inputs["input_ids"].shape[1]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        expected = new_tokens(host, inputs, max_new_tokens=8)
        assert expected.shape == (1, 8)
        if host.name in RECURRENT_HOSTS:
            for assisted in ({"prompt_lookup_num_tokens": 2}, {"assistant_model": host.model}):
                with pytest.raises(InputError, match="recurrent layers.*drop assistant_model and prompt_lookup"):
                    new_tokens(host, inputs, **assisted)
        else:
            assert torch.equal(new_tokens(host, inputs, max_new_tokens=8, prompt_lookup_num_tokens=2), expected)
        assert torch.equal(new_tokens(host, inputs, max_new_tokens=None, max_length=length + 8), expected)
        positional = host.model.generate(inputs["input_ids"], **without(inputs, "input_ids"), max_new_tokens=8)
        assert torch.equal(positional[:, -8:], expected)


def test_every_returned_sequence_starts_with_its_prompt(host: Host) -> None:
    inputs = host.batch(*ROWS["two"]).attached_inputs
    ids = inputs["input_ids"]
    arguments = {"max_new_tokens": 3, "num_beams": 4, "num_return_sequences": 2}
    with framefold.attach(host.model, AboveMean()):
        out = host.model.generate(**inputs, **arguments, return_dict_in_generate=True, output_scores=True)
        assert torch.equal(out.sequences, host.model.generate(**inputs, **arguments))
        best = new_tokens(host, inputs, max_new_tokens=3, num_beams=4)
    assert out.sequences.shape == (4, ids.shape[1] + 3)
    assert torch.equal(out.sequences[:, :-3], ids.repeat_interleave(2, dim=0))
    assert torch.equal(out.sequences[::2, -3:], best) and not torch.equal(out.sequences[1::2, -3:], best)


RAGGED = [[5, -6, 6], [9, -4, 3], [14], [4, -4, 3, -4, 2]]  # one video, a shorter one, none, two


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_ragged_batch_generates_what_each_row_generates_alone(host: Host, arguments: Any) -> None:
    batch = host.batch(*RAGGED)
    with framefold.attach(host.model, AboveMean()):
        together = new_tokens(host, batch.attached_inputs, **arguments)
        alone = [new_tokens(host, row.attached_inputs, **arguments) for row in batch.rows_alone]
    assert torch.equal(together, torch.cat(alone))


def test_rows_of_equal_length_that_become_ragged_are_padded_on_the_left(host: Host) -> None:
    """The prompts came without padding, so nothing shows the side; the compressor keeps more of one of them."""
    batch = host.batch([5, -6, 6], [8, -6, 3], [1, -6, 10])
    assert len(set(batch.lengths)) == 1
    with framefold.attach(host.model, AboveMean()):
        together = new_tokens(host, without(batch.attached_inputs, "attention_mask"))
        alone = [new_tokens(host, row.attached_inputs) for row in batch.rows_alone]
        kept = [host.model(**row.attached_inputs).logits.shape[1] for row in batch.rows_alone]
    assert len(set(kept)) > 1 and torch.equal(together, torch.cat(alone))
