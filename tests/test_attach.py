"""A forward of an attached host differs from the bare one by the dropped tokens only; tiny hosts of the real class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts import encode, prepare

from . import tiny_hosts as tiny
from .tiny_hosts import Positive, batch, pair, prompt, single, video, without

TOLERANCE = 2e-5  # fp32


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def host(request: pytest.FixtureRequest) -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny.llava_onevision(request.param)
    torch.set_num_threads(threads)


CASES = {
    "one": single(),
    "one without a mask": without(single(), "attention_mask"),
    "two padded left": pair(),
    "two padded right": pair("right"),
    "two padded, without a mask": without(pair(), "attention_mask"),
}


CASES["another vision layer"] = single() | {"vision_feature_layer": -2}


@pytest.mark.parametrize("case", CASES)
def test_identity_is_bit_identical_to_the_bare_host(host: Any, case: str) -> None:
    inputs = CASES[case]
    logits, tokens = host(**inputs).logits, host.generate(**inputs, max_new_tokens=6)
    with framefold.attach(host, framefold.build("identity")):
        assert torch.equal(host(**inputs).logits, logits)
        assert torch.equal(host.generate(**inputs, max_new_tokens=6), tokens)
        beams = host.generate(**inputs, max_new_tokens=4, num_beams=3)
    assert torch.equal(host(**inputs).logits, logits)
    assert torch.equal(host.generate(**inputs, max_new_tokens=6), tokens)
    assert torch.equal(host.generate(**inputs, max_new_tokens=4, num_beams=3), beams)


FRAMES = [2, 6]  # the middles of two equal stretches of eight frames


def columns_of_uniform() -> list[int]:
    """Of prompt(5, -8, 6): five words, 8 * 4 tokens, the newline, six words."""
    return [*range(5), *[5 + 4 * f + i for f in FRAMES for i in range(4)], 37, *range(38, 44)]


def test_uniform_equals_the_host_with_the_other_frames_masked_out(host: Any) -> None:
    columns = columns_of_uniform()
    masked = single()
    masked["attention_mask"] = torch.zeros_like(masked["attention_mask"])
    masked["attention_mask"][:, columns] = 1
    expected = host(**masked).logits[:, columns]
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        assert (host(**single()).logits - expected).abs().max() < TOLERANCE
    control = host(**single()).logits[:, columns]  # the other frames do matter
    assert (control - expected).abs().max() > 0.05


def test_uniform_equals_the_frames_tokens_at_their_original_positions(host: Any) -> None:
    columns, inputs = columns_of_uniform(), single()
    features = host.model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0]
    embeds = host.get_input_embeddings()(inputs["input_ids"])
    embeds[0, 5:38] = features

    def reference(positions: torch.Tensor) -> torch.Tensor:
        arguments = {"attention_mask": torch.ones(1, len(columns)), "position_ids": positions[None]}
        return host(inputs_embeds=embeds[:, columns], **arguments).logits

    preserved = reference(torch.tensor(columns))
    renumbered = reference(torch.arange(len(columns)))
    assert (preserved - renumbered).abs().max() > 0.05  # so wrong positions cannot pass
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        assert (host(**inputs).logits - preserved).abs().max() < TOLERANCE
    with framefold.attach(host, framefold.build("uniform", 0.25), positions="compact"):
        assert (host(**inputs).logits - renumbered).abs().max() < TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_pruning_equals_masking_in_a_padded_batch(host: Any, side: str) -> None:
    inputs = pair(side)
    with framefold.attach(host, Positive()):
        prepared = prepare(host, inputs, host.compressor)
        logits = host(**inputs).logits
    plan = prepared.compaction
    assert plan.pad.any() and len({len(tokens) for tokens in prepared.tokens}) == 2
    masked = inputs | {"attention_mask": torch.zeros_like(inputs["attention_mask"])}
    for row in range(2):
        masked["attention_mask"][row, plan.src[row][~plan.pad[row]]] = 1
    expected = host(**masked).logits
    for row in range(2):
        kept = ~plan.pad[row]
        assert (logits[row, kept] - expected[row, plan.src[row, kept]]).abs().max() < TOLERANCE


def test_masked_columns_that_hold_something_are_no_padding(host: Any) -> None:
    inputs = pair("right")
    inputs["attention_mask"][0, :38] = 0  # the words before the video, and the video itself
    inputs["labels"] = torch.full_like(inputs["input_ids"], -100)
    inputs["labels"][0, 44] = 7  # the padding column of the first row
    prepared = prepare(host, inputs, framefold.build("uniform", 0.25))
    kept = prepared.compaction.src[0][~prepared.compaction.pad[0]].tolist()
    assert kept == [*columns_of_uniform()[5:], 44] and (prepared.kwargs["labels"] == 7).sum() == 1
    assert torch.isfinite(host(**prepared.kwargs).logits).all()


def test_caller_positions_are_carried_along(host: Any) -> None:
    inputs, shift = single(), 3
    inputs["position_ids"] = torch.arange(44)[None] * 2 + shift
    columns = columns_of_uniform()
    masked = inputs | {"attention_mask": torch.zeros(1, 44, dtype=torch.long)}
    masked["attention_mask"][:, columns] = 1
    expected = host(**masked).logits[:, columns]
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        assert (host(**inputs).logits - expected).abs().max() < TOLERANCE


def test_several_videos_and_none_in_a_row_equal_each_alone(host: Any) -> None:
    rows, pixels = [prompt(4, -8, 3, -8, 2), prompt(12), prompt(1, -8, 6)], video(8, 3)
    inputs = {**batch(*rows, side="right"), "pixel_values_videos": pixels}
    with framefold.attach(host, Positive()):
        together = host(**inputs).logits
        for row, mine in enumerate([pixels[:2], None, pixels[2:]]):
            alone = host(**batch(rows[row]), pixel_values_videos=mine).logits[0]
            assert (together[row, : len(alone)] - alone).abs().max() < TOLERANCE


def test_batches_without_raw_video_pass_untouched(host: Any) -> None:
    text = batch(prompt(9))
    features = host.model.get_video_features(video(8))
    encoded = without(single(), "pixel_values_videos") | {"mm_encoder_outputs": {"video": features}}
    bare = [host(**inputs).logits for inputs in (text, encoded)], host.generate(**encoded, max_new_tokens=3)
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        attached = [host(**inputs).logits for inputs in (text, encoded)], host.generate(**encoded, max_new_tokens=3)
    assert all(map(torch.equal, attached[0], bare[0])) and torch.equal(attached[1], bare[1])


def test_an_image_beside_the_video_stays_whole(host: Any) -> None:
    ids = torch.tensor([prompt(3) + [tiny.IMAGE] * 36 + prompt(2, -8, 4)])
    image = torch.randn(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    inputs = {"input_ids": ids, "pixel_values": image, "image_sizes": torch.tensor([[16, 16]])}
    inputs["pixel_values_videos"] = video(8)
    logits = host(**inputs).logits
    tokens = host.generate(**inputs, max_new_tokens=4)
    with framefold.attach(host, framefold.build("identity")):
        assert torch.equal(host(**inputs).logits, logits)
        assert torch.equal(host.generate(**inputs, max_new_tokens=4), tokens)
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        assert host(**inputs).logits.shape[1] == ids.shape[1] - 24


def test_features_encoded_once_serve_many_compressors(host: Any) -> None:
    inputs = pair()
    encoded = encode(host, inputs)
    assert [tuple(e.features.shape) for e in encoded] == [(8, 2, 2, 32)] * 2 and not encoded[0].features.requires_grad
    assert torch.equal(encoded[0].extra[0], host.model.image_newline)
    for name, budget in (("uniform", 0.25), ("pool", 5), ("uniform", 0.1)):
        compressor = framefold.build(name, budget)
        cached = prepare(host, without(inputs, "pixel_values_videos"), compressor, encoded=encoded)
        with framefold.attach(host, compressor):
            assert torch.equal(host(**cached.kwargs).logits, host(**inputs).logits)
        assert "pixel_values_videos" not in cached.kwargs
        new = host.generate(**prepare(host, inputs, compressor, generation=True).kwargs, max_new_tokens=4)[:, -4:]
        with framefold.attach(host, compressor):
            assert torch.equal(new, host.generate(**inputs, max_new_tokens=4)[:, -4:])


def test_videos_of_unequal_length_come_as_a_list(host: Any) -> None:
    clips = [video(8)[0], video(4, seed=5)[0]]
    inputs = batch(prompt(5, -8, 6), prompt(9, -4, 3, seed=7))
    with framefold.attach(host, framefold.build("uniform", 0.5)):
        together = host.generate(**inputs, pixel_values_videos=clips, max_new_tokens=4, num_beams=2)[:, -4:]
        for row, ids in enumerate([prompt(5, -8, 6), prompt(9, -4, 3, seed=7)]):
            pixels = clips[row][None]
            alone = host.generate(**batch(ids), pixel_values_videos=pixels, max_new_tokens=4, num_beams=2)
            assert torch.equal(alone[0, -4:], together[row])


def test_times_and_queries_reach_the_compressor(host: Any) -> None:
    seen: list[Any] = []

    class Spy(Positive):
        def compress(self, video: Any, k: int, query: Any) -> Any:
            seen.append((video.times.tolist(), None if query is None else query.shape[0]))
            return super().compress(video, k, query)

    times = [torch.arange(8) / 2, torch.arange(8) / 4]
    with framefold.attach(host, Spy(), query=torch.zeros(3, 32)):
        host(**pair(), times=times)
        host.generate(**single(), query=torch.zeros(5, 32), max_new_tokens=1)
    assert seen == [(times[0].tolist(), 3), (times[1].tolist(), 3), (list(range(8)), 5)]
    prepare(host, pair(), Spy(), query=[torch.zeros(1, 32), None])
    assert [query for _, query in seen[3:]] == [1, None]
