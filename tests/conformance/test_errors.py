"""Every family: what does not fit is a typed error that names the cause, before the language model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import framefold
from framefold.errors import ContractError, InputError
from tests.support.hosts.bare_hosts import CLIP_HOSTS, MROPE, Host, build
from tests.support.hosts.tiny_families import HOSTS
from tests.support.hosts.tiny_hosts import Positive, without

FLAT = [*MROPE, "video_llama_3"]  # their videos are rows of patches with a grid


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    host = build(request.param)

    def refuse(*args: Any) -> None:
        raise AssertionError("the language model ran")

    host.language.register_forward_pre_hook(refuse)
    return host


def fine(host: Host) -> dict[str, Any]:
    return dict(host.batch([5, -4, 6]).inputs)


def vision(host: Host, *rows: list[int]) -> dict[str, Any]:
    """The arguments of the vision side alone, for prompts that hold other videos."""
    return without(host.batch(*rows).inputs, "input_ids", "attention_mask", "mm_token_type_ids")


def pixels(host: Host) -> str:
    return "pixel_values" if host.name in CLIP_HOSTS else "pixel_values_videos"


def empty(host: Host) -> dict[str, Any]:
    inputs = fine(host)
    inputs[pixels(host)] = inputs[pixels(host)][:0]
    if "video_grid_thw" in inputs:
        inputs["video_grid_thw"] = torch.tensor([[0, 4, 6]])
    return inputs


def frameless(host: Host) -> dict[str, Any]:
    """A video of no frames."""
    inputs = fine(host)
    if host.name not in FLAT:
        axis = 0 if host.name == "internvl" else 1
        return inputs | {pixels(host): inputs[pixels(host)].narrow(axis, 0, 0)}
    return empty(host)


def cut(host: Host) -> dict[str, Any]:
    """A prompt that lacks the last placeholder."""
    inputs, placeholder = fine(host), host.tiny.placeholder
    last = (inputs["input_ids"][0] == placeholder).nonzero()[-1, 0]
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, last] = 7
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == placeholder).int() * 2
    return inputs


def encoded_too(host: Host) -> dict[str, Any]:
    modality = "image" if pixels(host) == "pixel_values" or host.name == "glm4v" else "video"
    return fine(host) | {"mm_encoder_outputs": {modality: object()}}


def embedded(host: Host) -> dict[str, Any]:
    return without(fine(host), "input_ids") | {"inputs_embeds": torch.zeros(1, 9, 32)}


def packed(host: Host) -> dict[str, Any]:
    positions = torch.arange(fine(host)["input_ids"].shape[1])[None] % 9
    return without(fine(host), "attention_mask") | {"position_ids": positions}


def ids_like(host: Host, *shape: int) -> torch.Tensor:
    return torch.ones(shape or fine(host)["input_ids"].shape, dtype=torch.long)


BAD_INPUTS: dict[str, tuple[Callable[[Host], dict[str, Any]], str]] = {
    "more videos than placeholders": (
        lambda h: fine(h) | vision(h, [5, -4, 3, -4, 6]),
        "more (videos than placeholders|or fewer)",
    ),
    "fewer videos than placeholders": (
        lambda h: fine(h) | vision(h, [5, -2, 6]),
        "fewer (videos than placeholders|than fit)",
    ),
    "no video for the second row": (
        lambda h: dict(h.batch([5, -4, 6], [2, -4, 3]).inputs) | vision(h, [5, -4, 6]),
        "fewer (videos than placeholders|than fit)",
    ),
    "a prompt that lacks a placeholder": (cut, r"more videos than placeholders|no images of 2 x 2"),
    "a prompt without placeholders": (lambda h: h.batch([20]).inputs | vision(h, [5, -4, 6]), "more videos|no images"),
    "an empty video": (empty, "empty"),
    "a video without frames": (frameless, "empty"),
    "NaN pixels": (lambda h: fine(h) | {pixels(h): fine(h)[pixels(h)] * float("nan")}, "NaN"),
    "a label on a dropped column": (lambda h: fine(h) | {"labels": fine(h)["input_ids"]}, "labels lie on placeholders"),
    "a 4-D mask": (lambda h: fine(h) | {"attention_mask": ids_like(h, 1, 1, 9, 9)}, "attention_mask must be"),
    "a mask of another length": (lambda h: fine(h) | {"attention_mask": ids_like(h, 1, 9)}, "attention_mask must be"),
    "a dict of masks": (lambda h: fine(h) | {"attention_mask": {"full": None}}, "attention_mask must be.*dict"),
    "labels of another length": (lambda h: fine(h) | {"labels": ids_like(h, 1, 9)}, "labels must be"),
    "labels that are shifted": (lambda h: fine(h) | {"shift_labels": ids_like(h)}, "shift_labels"),
    "raw and encoded video": (encoded_too, "both raw"),
    "embeddings for ids": (embedded, "pass input_ids"),
    "packed sequences": (packed, "packed sequences"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused(host: Host, case: str) -> None:
    make, message = BAD_INPUTS[case]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)), pytest.raises(InputError, match=message):
        host.model(**make(host))


@pytest.mark.parametrize(
    "case", ["more videos than placeholders", "a 4-D mask", "an empty video", "embeddings for ids"]
)
def test_generate_refuses_them_too(host: Host, case: str) -> None:
    make, message = BAD_INPUTS[case]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)), pytest.raises(InputError, match=message):
        host.model.generate(**make(host), max_new_tokens=2)


def test_counts_that_are_mixed_between_rows_are_refused(host: Host) -> None:
    """Runs of images are not counted by row: the host itself takes them one after the other, whatever the prompts."""
    if host.name in CLIP_HOSTS:
        return
    ids = host.batch([2, -3, 2], [2, -5, 2]).inputs
    with (
        framefold.attach(host.model, framefold.build("uniform", 0.25)),
        pytest.raises(InputError, match="do not match"),
    ):
        host.model(**ids | vision(host, [2, -4, 2], [2, -4, 2]))


class Broken(Positive):
    """Does something to the tokens that it must not do, past the checks of the base class."""

    def __init__(self, damage: Callable[[Any], Any]) -> None:
        super().__init__()
        self.damage = damage

    def forward(self, video: Any, query: Any = None) -> Any:
        return self.damage(framefold.build("uniform", 0.5)(video))


def changed(**change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def damage(out: Any) -> Any:
        return replace(out, tokens=replace(out.tokens, **{name: make(out.tokens) for name, make in change.items()}))

    return damage


BAD_COMPRESSORS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NaN": (changed(features=lambda t: t.features * float("nan")), "NaN"),
    "no tokens": (changed(features=lambda t: t.features[:0], index=lambda t: t.index[:0]), "no tokens"),
    "unsorted anchors": (changed(index=lambda t: t.index.flip(0)), "strictly ascending"),
    "an anchor twice": (changed(index=lambda t: t.index.clamp(min=int(t.index[1]))), "strictly ascending"),
    "anchors off the grid": (changed(index=lambda t: t.index + 1000), "outside of the grid"),
    "another width": (changed(features=lambda t: t.features[:, :8]), "changed width"),
    "another dtype": (changed(features=lambda t: t.features.double()), "changed width or dtype"),
    "fewer anchors than tokens": (changed(index=lambda t: t.index[:-1]), "anchors"),
    "no Compressed": (lambda out: out.tokens.features, "must return Compressed"),
}


@pytest.mark.parametrize("case", BAD_COMPRESSORS)
def test_a_compressor_that_breaks_its_contract_is_named(host: Host, case: str) -> None:
    damage, message = BAD_COMPRESSORS[case]
    with framefold.attach(host.model, Broken(damage)), pytest.raises(ContractError, match=message):
        host.model(**fine(host))


BAD_GRIDS: dict[str, tuple[Any, str]] = {
    "none": (None, r"must be \(videos, 3\)"),
    "two numbers": (torch.tensor([[4, 4]]), r"must be \(videos, 3\)"),
    "more patches than pixels": (torch.tensor([[5, 4, 6]]), "must be.*values"),
    "fewer patches than pixels": (torch.tensor([[4, 2, 6]]), "must be.*values"),
    "sides that do not merge": (torch.tensor([[4, 3, 8]]), "divisible by the merge sizes"),
    "no height": (torch.tensor([[4, 0, 6]]), "empty"),
}


@pytest.mark.parametrize("case", BAD_GRIDS)
@pytest.mark.parametrize("name", FLAT)
def test_grids_that_do_not_fit_the_pixels_are_refused(name: str, case: str) -> None:
    host = build(name)
    grid, message = BAD_GRIDS[case]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)), pytest.raises(InputError, match=message):
        host.model(**fine(host) | {"video_grid_thw": grid})


@pytest.mark.parametrize("name", [name for name in MROPE if name != "qwen2_5_vl"])
def test_hosts_that_refuse_a_video_without_token_types_still_do(name: str) -> None:
    host = build(name)
    inputs = without(fine(host), "mm_token_type_ids")
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        host.model(**inputs)
    with framefold.attach(host.model, framefold.build("identity")):
        for run in (host.model, host.model.generate):
            with pytest.raises(InputError, match="mm_token_type_ids"):
                run(**inputs)


def test_a_host_that_takes_a_video_without_token_types_for_text_still_does() -> None:
    host = build("qwen2_5_vl")
    inputs = without(fine(host), "mm_token_type_ids")
    logits, tokens = host.model(**inputs).logits, host.model.generate(**inputs, max_new_tokens=3)
    with framefold.attach(host.model, framefold.build("identity")):
        assert torch.equal(host.model(**inputs).logits, logits)
        assert torch.equal(host.model.generate(**inputs, max_new_tokens=3), tokens)


def test_a_video_that_the_processor_has_pruned_is_refused() -> None:
    host = build("video_llama_3")
    mask = torch.ones(24, dtype=torch.bool)
    bare = host.model(**fine(host)).logits
    with framefold.attach(host.model, framefold.build("identity")):
        assert torch.equal(host.model(**fine(host), video_compression_mask=mask).logits, bare)
        mask[3] = False
        with pytest.raises(InputError, match="use_token_compression=False"):
            host.model(**fine(host), video_compression_mask=mask)
        for sizes in (None, torch.tensor([2, 2]), torch.tensor([0])):
            with pytest.raises(InputError, match="video_merge_sizes must be"):
                host.model(**fine(host) | {"video_merge_sizes": sizes})


@pytest.mark.parametrize("name", [name for name in HOSTS if name not in FLAT and name not in CLIP_HOSTS])
def test_one_video_that_is_no_batch_of_videos_is_refused(name: str) -> None:
    host = build(name)
    inputs = fine(host)
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        with pytest.raises(InputError, match=r"must be \(videos, frames"):
            host.model(**inputs | {"pixel_values_videos": inputs["pixel_values_videos"][0]})
        for row in (inputs["pixel_values_videos"], list(inputs["pixel_values_videos"])):
            assert host.model(**inputs | {"pixel_values_videos": row}).logits.isfinite().all()
