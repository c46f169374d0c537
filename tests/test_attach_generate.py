"""``generate`` of an attached host equals recomputation, by every way to decode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import framefold

from . import tiny_hosts as tiny
from .tiny_hosts import Positive, batch, pair, prompt, single, video


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def host(request: pytest.FixtureRequest) -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny.llava_onevision(request.param)
    torch.set_num_threads(threads)


def steps(host: Any, inputs: dict[str, Any], new: int) -> torch.Tensor:
    """Greedy tokens by a whole forward at every step."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(new):
        logits = host(**{**inputs, "input_ids": ids, "attention_mask": mask}).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return ids


@pytest.mark.parametrize("compressor", [framefold.build("uniform", 0.25), Positive()], ids=["uniform", "ragged"])
@pytest.mark.parametrize("inputs", [single(), pair()], ids=["one", "two"])
def test_cached_generation_equals_recomputing_every_step(host: Any, inputs: dict[str, Any], compressor: Any) -> None:
    with framefold.attach(host, compressor):
        tokens = host.generate(**inputs, max_new_tokens=6)
        assert torch.equal(tokens, steps(host, inputs, 6))  # the caller's prompt, then the new tokens


VARIANTS: dict[str, dict[str, Any]] = {
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunked prefill": {"prefill_chunk_size": 7},
    "a total length": {"max_new_tokens": None, "max_length": 50},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("inputs", [single(), pair()], ids=["one", "two"])
def test_every_way_to_generate_gives_the_same_tokens(host: Any, inputs: dict[str, Any], variant: str) -> None:
    with framefold.attach(host, Positive()):
        expected = host.generate(**inputs, max_new_tokens=50 - inputs["input_ids"].shape[1])
        arguments = {"max_new_tokens": expected.shape[1] - inputs["input_ids"].shape[1]} | VARIANTS[variant]
        assert torch.equal(host.generate(**inputs, **arguments), expected)


def test_prompt_lookup_and_positional_ids_give_the_same_tokens(host: Any) -> None:
    inputs = single()
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        expected = host.generate(**inputs, max_new_tokens=8)
        assert torch.equal(host.generate(**inputs, max_new_tokens=8, prompt_lookup_num_tokens=2), expected)
        assert torch.equal(host.generate(inputs.pop("input_ids"), **inputs, max_new_tokens=8), expected)


def test_generate_returns_a_row_for_every_sequence_and_keeps_its_output_type(host: Any) -> None:
    inputs = pair()
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        arguments = {"max_new_tokens": 3, "num_beams": 4, "num_return_sequences": 2}
        out = host.generate(**inputs, **arguments, return_dict_in_generate=True, output_scores=True)
        assert torch.equal(out.sequences, host.generate(**inputs, **arguments))
    assert out.sequences.shape == (4, 45 + 3)
    assert all(torch.equal(out.sequences[start::2, :45], inputs["input_ids"]) for start in (0, 1))


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_a_ragged_batch_generates_what_each_row_generates_alone(host: Any, arguments: dict[str, Any]) -> None:
    rows = [prompt(5, -8, 6), prompt(9, -8, 3, seed=7), prompt(30), prompt(2, -8, 4, -8, 2)]
    pixels = video(8, 4)
    both = {**batch(*rows), "pixel_values_videos": pixels}
    with framefold.attach(host, Positive()):
        together = host.generate(**both, max_new_tokens=5, **arguments)[:, -5:]
        for row, mine in enumerate([pixels[:1], pixels[1:2], None, pixels[2:]]):
            clips = {} if mine is None else {"pixel_values_videos": mine}
            alone = host.generate(**batch(rows[row]), **clips, max_new_tokens=5, **arguments)
            assert torch.equal(alone[0, -5:], together[row])


@pytest.mark.parametrize("positions", ["preserve", "compact"])
@pytest.mark.parametrize("with_mask", [True, False])
def test_a_hand_written_decode_loop_equals_recomputation(host: Any, with_mask: bool, positions: Any) -> None:
    inputs = pair()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with framefold.attach(host, Positive(), positions=positions):
        out = host(**inputs, use_cache=True)
        for _ in range(4):
            ids = torch.cat([ids, out.logits[:, -1:].argmax(-1)], dim=1)
            mask = torch.cat([mask, mask.new_ones(2, 1)], dim=1)
            more = {"attention_mask": mask} if with_mask else {}
            out = host(input_ids=ids[:, -1:], past_key_values=out.past_key_values, **more)
            again = host(**inputs | {"input_ids": ids, "attention_mask": mask})
            assert (out.logits[:, -1] - again.logits[:, -1]).abs().max() < 2e-5


def test_a_cache_that_was_reset_serves_other_prompts(host: Any) -> None:
    text = {"input_ids": torch.tensor([prompt(30)])}
    bare = host(**text).logits
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        cache = host(**single(), use_cache=True).past_key_values
        cache.reset()
        first = host(input_ids=text["input_ids"][:, :25], past_key_values=cache).logits
        then = host(input_ids=text["input_ids"][:, 25:], past_key_values=cache).logits
    assert (torch.cat([first, then], dim=1) - bare).abs().max() < 2e-5


def test_rows_of_one_length_that_become_ragged_are_padded_on_the_left(host: Any) -> None:
    rows, pixels = [prompt(5, -8, 6), prompt(8, -8, 3, seed=7)], video(8, 2)
    both = {"input_ids": torch.tensor(rows), "pixel_values_videos": pixels}
    with framefold.attach(host, Positive()):
        together = host.generate(**both, max_new_tokens=5)[:, -5:]
        for row in range(2):
            alone = host.generate(**batch(rows[row]), pixel_values_videos=pixels[row : row + 1], max_new_tokens=5)
            assert torch.equal(alone[0, -5:], together[row])
