"""Whatever does not fit is a typed error that names the cause, before the language model runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

import framefold
from framefold.adapters.errors import AttachError, ContractError, InputError, UnsupportedHostError
from framefold.adapters.hosts import attach, detach, encode, family, list_families, prepare

from . import tiny_hosts as tiny
from .tiny_hosts import Positive, batch, pair, prompt, single, video, without


@pytest.fixture(scope="module")
def host() -> Any:
    return tiny.llava_onevision()


@pytest.fixture(autouse=True)
def the_language_model_does_not_run(host: Any) -> Any:
    def refuse(*args: Any) -> None:
        raise AssertionError("the language model ran")

    hook = host.model.language_model.register_forward_pre_hook(refuse)
    yield
    hook.remove()


def labelled(inputs: dict[str, Any]) -> dict[str, Any]:
    return inputs | {"labels": inputs["input_ids"]}


BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "more videos than placeholders": (single() | {"pixel_values_videos": video(8, 2)}, "more videos than placeholders"),
    "fewer videos than placeholders": (pair() | {"pixel_values_videos": video(8)}, "fewer videos"),
    "frames that do not fit": (single() | {"pixel_values_videos": video(6)}, r"\[25\] tokens.*\[33\] placeholders"),
    "counts mixed between rows": (
        {**batch(prompt(2, -6, 2), prompt(2, -10, 2)), "pixel_values_videos": [video(8)[0], video(8)[0]]},
        r"do not match.*\[25, 41\]",
    ),
    "a label on a dropped column": (labelled(single()), "24 labels"),
    "a 4-D mask": (single() | {"attention_mask": torch.ones(1, 1, 44, 44)}, r"attention_mask must be.*\(1, 44\)"),
    "a mask of another length": (single() | {"attention_mask": torch.ones(1, 40)}, "attention_mask must be"),
    "a dict of masks": (single() | {"attention_mask": {"full_attention": None}}, "attention_mask must be"),
    "labels of another length": (single() | {"labels": torch.full((1, 40), -100)}, "labels must be"),
    "an empty video": (single() | {"pixel_values_videos": video(0)}, "not empty"),
    "one video, not a batch of them": (single() | {"pixel_values_videos": video(8)[0]}, r"must be \(videos, frames"),
    "NaN pixels": (single() | {"pixel_values_videos": video(8) * float("nan")}, "NaN"),
    "embeddings for ids": (
        without(single(), "input_ids") | {"inputs_embeds": torch.zeros(1, 44, 32)},
        "pass input_ids",
    ),
    "raw and encoded video": (single() | {"mm_encoder_outputs": {"video": object()}}, "both raw"),
    "packed sequences": (
        without(single(), "attention_mask") | {"position_ids": torch.arange(44)[None] % 30},
        "packed sequences",
    ),
    "labels shifted by the caller": (single() | {"shift_labels": torch.zeros(1, 44)}, "shift_labels"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused(host: Any, case: str) -> None:
    inputs, message = BAD_INPUTS[case]
    with framefold.attach(host, framefold.build("uniform", 0.25)), pytest.raises(InputError, match=message):
        host(**inputs)


@pytest.mark.parametrize(
    "case", ["more videos than placeholders", "a 4-D mask", "an empty video", "embeddings for ids"]
)
def test_generate_refuses_them_too(host: Any, case: str) -> None:
    inputs, message = BAD_INPUTS[case]
    with framefold.attach(host, framefold.build("uniform", 0.25)), pytest.raises(InputError, match=message):
        host.generate(**inputs, max_new_tokens=2)


class Broken(Positive):
    """Does something to the tokens that it must not do, past the checks of the base class."""

    def __init__(self, damage: Callable[[Any], Any]) -> None:
        super().__init__()
        self.damage = damage

    def forward(self, video: Any, query: Any = None) -> Any:
        return self.damage(super().forward(video, query))


def changed(**change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def damage(out: Any) -> Any:
        return replace(out, tokens=replace(out.tokens, **{name: make(out.tokens) for name, make in change.items()}))

    return damage


BAD_COMPRESSORS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NaN": (changed(features=lambda t: t.features * float("nan")), "NaN"),
    "no tokens": (changed(features=lambda t: t.features[:0], index=lambda t: t.index[:0]), "no tokens"),
    "unsorted anchors": (changed(index=lambda t: t.index.flip(0)), "strictly ascending"),
    "an anchor twice": (changed(index=lambda t: t.index.clamp(min=int(t.index[1]))), "strictly ascending"),
    "anchors off the grid": (changed(index=lambda t: t.index + 32), "outside of the grid"),
    "another width": (changed(features=lambda t: t.features[:, :8]), "changed width"),
    "another dtype": (changed(features=lambda t: t.features.double()), "changed width or dtype"),
    "fewer anchors than tokens": (changed(index=lambda t: t.index[:-1]), "anchors"),
    "no Compressed": (lambda out: out.tokens.features, "must return Compressed"),
}


@pytest.mark.parametrize("case", BAD_COMPRESSORS)
def test_a_compressor_that_breaks_its_contract_is_named(host: Any, case: str) -> None:
    damage, message = BAD_COMPRESSORS[case]
    with attach(host, Broken(damage)), pytest.raises(ContractError, match=message):
        host(**single())


def test_a_query_aware_compressor_without_a_query_is_refused(host: Any) -> None:
    class Asking(Positive):
        query_aware = True

    with attach(host, Asking()), pytest.raises(InputError, match="query-aware"):
        host(**single())
    with pytest.raises(InputError, match="query must have one entry for each of the 1 videos"):
        prepare(host, single(), Asking(), query=[None, None])


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


def test_attaching_twice_and_detaching_nothing_are_refused(host: Any) -> None:
    with attach(host, framefold.build("uniform")):
        with pytest.raises(AttachError, match="attached already"):
            attach(host, framefold.build("uniform"))
        detach(host)  # the context manager does not mind
    with pytest.raises(AttachError, match="no compressor is attached"):
        detach(host)
    with pytest.raises(InputError, match="takes a Compressor"):
        attach(host, torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="outputs must be one of"):
        attach(host, framefold.build("uniform"), outputs="long")  # type: ignore[arg-type]
    host.compressor = torch.nn.Identity()
    with pytest.raises(AttachError, match="of its own"):
        attach(host, framefold.build("uniform"))
    del host.compressor
    assert not host._forward_pre_hooks and not host._forward_hooks


def test_an_unsupported_host_is_told_which_ones_are(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
    host.model.language_model._forward_pre_hooks.clear()  # this one has to run
    with attach(host, framefold.build("uniform", 0.25)):
        out = host.generate(**single(), max_new_tokens=2, return_dict_in_generate=True)
        with pytest.raises(InputError, match="cannot follow a filled cache"):
            host(**single(), past_key_values=out.past_key_values)
        more = torch.cat([out.sequences, torch.tensor([[5, 6]])], dim=1)
        with pytest.raises(InputError, match="holds a compressed prompt"):
            host.generate(more, past_key_values=out.past_key_values, max_new_tokens=2)
        with pytest.raises(InputError, match="must be 2-D with 46 columns here"):
            mask = torch.ones(1, 50)
            host(input_ids=more[:, -1:], attention_mask=mask, past_key_values=out.past_key_values)
        out.past_key_values.crop(-5)
        with pytest.raises(InputError, match="cropped inside"):
            host(input_ids=more[:, -1:], past_key_values=out.past_key_values)
