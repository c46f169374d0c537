"""Options, padding, losses, caches and refusals of attach, on one family; tests/conformance covers every family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

import framefold
from framefold.adapters.hosts import attach, detach, encode, list_families, prepare
from framefold.adapters.hosts.base import family
from framefold.errors import AttachError, InputError, UnsupportedHostError
from tests.support.hosts import tiny_hosts as tiny
from tests.support.hosts.tiny_families import labels_of, without
from tests.support.hosts.tiny_hosts import Positive, TopNorm, batch, pair, prompt, single, video

# Columns of prompt(5, -8, 6) after its first words that uniform keeps at 0.25: 4 tokens each of the middle frames of
# two halves of the video, the newline, six words.
UNIFORM = [*[5 + 4 * frame + i for frame in (2, 6) for i in range(4)], 37, *range(38, 44)]


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tiny.llava_onevision("sdpa")
    torch.set_num_threads(threads)


def test_another_vision_layer_has_the_same_effect_as_in_the_bare_host(host: Any) -> None:
    inputs = single() | {"vision_feature_layer": -2}
    logits, tokens = host(**inputs).logits, host.generate(**inputs, max_new_tokens=3)
    assert not torch.equal(logits, host(**single()).logits)
    with attach(host, framefold.build("identity")):
        assert torch.equal(host(**inputs).logits, logits)
        assert torch.equal(host.generate(**inputs, max_new_tokens=3), tokens)


def test_masked_columns_with_a_video_or_labels_are_not_padding(host: Any) -> None:
    inputs = pair("right")
    inputs["attention_mask"][0, :38] = 0  # the words before the video, and the video itself
    inputs["labels"] = torch.full_like(inputs["input_ids"], -100)
    inputs["labels"][0, 44] = 7  # the padding column of the first row
    prepared = prepare(host, inputs, framefold.build("uniform", 0.25))
    kept = prepared.compaction.src[0][~prepared.compaction.pad[0]].tolist()
    assert kept == [*UNIFORM, 44] and (prepared.kwargs["labels"] == 7).sum() == 1
    assert torch.isfinite(host(**prepared.kwargs).logits).all()


def test_times_and_queries_reach_the_compressor(host: Any) -> None:
    calls: list[Any] = []

    class Spy(Positive):
        def compress(self, video: Any, k: int, query: Any) -> Any:
            calls.append((video.times.tolist(), None if query is None else query.shape[0]))
            return super().compress(video, k, query)

    times = [torch.arange(8) / 2, torch.arange(8) / 4]
    with framefold.attach(host, Spy(), query=torch.zeros(3, 32)):
        host(**pair(), times=times)
        host.generate(**single(), query=torch.zeros(5, 32), max_new_tokens=1)
    assert calls == [(times[0].tolist(), 3), (times[1].tolist(), 3), (list(range(8)), 5)]
    prepare(host, pair(), Spy(), query=[torch.zeros(1, 32), None])
    assert [query for _, query in calls[3:]] == [1, None]


def test_a_cache_that_was_reset_serves_other_prompts(host: Any) -> None:
    text = {"input_ids": torch.tensor([prompt(30)])}
    bare = host(**text).logits
    with framefold.attach(host, framefold.build("uniform", 0.25)):
        cache = host(**single(), use_cache=True).past_key_values
        cache.reset()
        first = host(input_ids=text["input_ids"][:, :25], past_key_values=cache).logits
        then = host(input_ids=text["input_ids"][:, 25:], past_key_values=cache).logits
    assert (torch.cat([first, then], dim=1) - bare).abs().max() < 2e-5


def test_losses_of_the_compressor_are_added_in_training_mode_only() -> None:
    host = tiny.llava_onevision()
    inputs = single() | {"labels": labels_of(single())}
    prepared = prepare(host, inputs, TopNorm())
    assert prepared.losses["scale"].item() == 1.0 and prepared.losses["scale"].requires_grad
    bare = host(**prepared.kwargs).loss
    with framefold.attach(host, TopNorm()):
        assert torch.equal(host(**inputs).loss, bare)
        host.train()
        assert torch.allclose(host(**inputs).loss, bare + 1)
        assert torch.equal(host(**prepared.kwargs).loss, bare)  # after prepare(), the caller adds the losses
    host.eval()


def test_a_query_aware_compressor_without_a_query_is_refused(host: Any) -> None:
    class QueryAware(Positive):
        query_aware = True

    with attach(host, QueryAware()), pytest.raises(InputError, match="query-aware"):
        host(**single())
    with pytest.raises(InputError, match="query must have one entry for each of the 1 videos"):
        prepare(host, single(), QueryAware(), query=[None, None])


def test_prepare_names_what_is_missing(host: Any) -> None:
    uniform = framefold.build("uniform")
    with pytest.raises(InputError, match="neither pixel_values_videos nor encoded"):
        prepare(host, without(single(), "pixel_values_videos"), uniform)
    with pytest.raises(InputError, match="no pixel_values_videos to encode"):
        encode(host, batch(prompt(3)))
    with pytest.raises(InputError, match="no videos"):
        prepare(host, single(), uniform, encoded=[])
    with pytest.raises(InputError, match="positions must be"):
        prepare(host, single(), uniform, positions="kept")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="position_ids were given"):
        prepare(host, single() | {"position_ids": torch.arange(44)[None]}, uniform, positions="compact")


def test_refusals_name_the_counts(host: Any) -> None:
    with attach(host, framefold.build("uniform", 0.25)):
        with pytest.raises(InputError, match=r"1 videos of \[25\] tokens.*\[33\] placeholders"):
            host(**single() | {"pixel_values_videos": video(6)})
        with pytest.raises(InputError, match=r"do not match.*\[33, 33\] tokens.*\[25, 41\]"):
            host(**batch(prompt(2, -6, 2), prompt(2, -10, 2)), pixel_values_videos=video(8, 2))
        with pytest.raises(InputError, match="24 labels"):
            host(**single(), labels=single()["input_ids"])


def test_attaching_twice_and_detaching_nothing_are_refused(host: Any) -> None:
    with attach(host, framefold.build("uniform")):
        with pytest.raises(AttachError, match="already attached"):
            attach(host, framefold.build("uniform"))
        detach(host)  # the context manager accepts that
    with pytest.raises(AttachError, match="no compressor is attached"):
        detach(host)
    with pytest.raises(InputError, match="needs a Compressor"):
        attach(host, torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="outputs must be one of"):
        attach(host, framefold.build("uniform"), outputs="long")  # type: ignore[arg-type]
    host.compressor = torch.nn.Identity()
    with pytest.raises(AttachError, match="already has an attribute"):
        attach(host, framefold.build("uniform"))
    del host.compressor
    assert not host._forward_pre_hooks and not host._forward_hooks


def test_the_refusal_of_a_host_lists_the_supported_ones(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    uniform = framefold.build("uniform")
    qwen = transformers.Qwen2Config(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    qwen.num_attention_heads = qwen.num_key_value_heads = 2
    for other in (transformers.Qwen2ForCausalLM(qwen), host.model, torch.nn.Linear(2, 2)):
        with pytest.raises(UnsupportedHostError, match="Supported: .*llava_onevision"):
            attach(other, uniform)
    assert "llava_onevision" in list_families()

    monkeypatch.setattr(family.transformers, "__version__", "5.17.0")
    family._fits.cache_clear()
    with pytest.raises(UnsupportedHostError, match="5.17.0.*install transformers>=5.20.*llava_onevision"):
        attach(host, uniform)
    family._fits.cache_clear()


def test_a_second_video_on_a_compressed_cache_is_refused(host: Any) -> None:
    with attach(host, framefold.build("uniform", 0.25)):
        out = host.generate(**single(), max_new_tokens=2, return_dict_in_generate=True)
        with pytest.raises(InputError, match="cannot follow a filled cache"):
            host(**single(), past_key_values=out.past_key_values)
        more = torch.cat([out.sequences, torch.tensor([[5, 6]])], dim=1)
        with pytest.raises(InputError, match="contains a compressed prompt"):
            host.generate(more, past_key_values=out.past_key_values, max_new_tokens=2)
        with pytest.raises(InputError, match="must be 2-D with 46 columns here"):
            mask = torch.ones(1, 50)
            host(input_ids=more[:, -1:], attention_mask=mask, past_key_values=out.past_key_values)
        out.past_key_values.crop(-5)
        with pytest.raises(InputError, match="cropped inside"):
            host(input_ids=more[:, -1:], past_key_values=out.past_key_values)
