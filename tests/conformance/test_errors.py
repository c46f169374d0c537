"""Every family: invalid inputs are typed errors that name the cause, raised before the language model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

import framefold
from framefold.adapters.hosts.base.clips import Clips
from framefold.adapters.hosts.base.family import get_family
from framefold.adapters.hosts.base.patches import Patches
from framefold.errors import ContractError, InputError
from tests.support.hosts.bare_hosts import GLM_HOSTS, IMAGE_RUN_HOSTS, KEEPING, MROPE_HOSTS, Host, build
from tests.support.hosts.refusals import wrongly_handled
from tests.support.hosts.tiny_families import HOSTS, without
from tests.support.hosts.tiny_hosts import Positive

PATCH_HOSTS = [name for name in HOSTS if isinstance(get_family(name), Patches)]
CLIP_HOSTS = [name for name in HOSTS if isinstance(get_family(name), Clips)]


@pytest.fixture(scope="module", params=HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host whose language model must not run."""
    host = build(request.param)

    def refuse(*args: Any) -> None:
        raise AssertionError("the language model ran")

    host.language.register_forward_pre_hook(refuse)
    return host


def valid(host: Host) -> dict[str, Any]:
    return dict(host.batch([5, -4, 6]).inputs)


def vision(host: Host, *rows: list[int]) -> dict[str, Any]:
    """Return only the arguments of the vision side, for prompts with other videos."""
    return without(host.batch(*rows).inputs, "input_ids", "attention_mask", "mm_token_type_ids")


def pixels(host: Host) -> str:
    return "pixel_values" if host.name in IMAGE_RUN_HOSTS else "pixel_values_videos"


def without_videos(host: Host) -> dict[str, Any]:
    inputs = valid(host)
    inputs[pixels(host)] = inputs[pixels(host)][:0]
    if "video_grid_thw" in inputs:
        inputs["video_grid_thw"] = torch.tensor([[0, 4, 6]])
    return inputs


def without_frames(host: Host) -> dict[str, Any]:
    inputs = valid(host)
    if host.name in PATCH_HOSTS:
        return without_videos(host)
    axis = 0 if host.name == "internvl" else 1
    return inputs | {pixels(host): inputs[pixels(host)].narrow(axis, 0, 0)}


def without_last_placeholder(host: Host) -> dict[str, Any]:
    inputs, placeholder = valid(host), host.tiny.placeholder
    last = (inputs["input_ids"][0] == placeholder).nonzero()[-1, 0]
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, last] = 7
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == placeholder).int() * host.tiny.video_type
    return inputs


def raw_and_encoded(host: Host) -> dict[str, Any]:
    modality = "image" if pixels(host) == "pixel_values" or host.name in GLM_HOSTS else "video"
    return valid(host) | {"mm_encoder_outputs": {modality: object()}}


def embedded(host: Host) -> dict[str, Any]:
    columns = valid(host)["input_ids"].shape
    return without(valid(host), "input_ids") | {"inputs_embeds": torch.zeros(*columns, 32)}


def packed(host: Host) -> dict[str, Any]:
    positions = torch.arange(valid(host)["input_ids"].shape[1])[None] % 9
    return without(valid(host), "attention_mask") | {"position_ids": positions}


def ids_like(host: Host, *shape: int) -> torch.Tensor:
    return torch.ones(shape or valid(host)["input_ids"].shape, dtype=torch.long)


def changed(**arguments: Any) -> Callable[[Host], dict[str, Any]]:
    """Return valid inputs with other arguments; a function is called with the host."""
    return lambda host: valid(host) | {k: v(host) if callable(v) else v for k, v in arguments.items()}


def other_pixels(value: Any) -> Callable[[Host], dict[str, Any]]:
    return lambda host: valid(host) | {pixels(host): value}


FEWER, MORE = "fewer videos than placeholders|do not match placeholders", "more videos|do not match placeholders"
BAD_INPUTS: dict[str, tuple[Callable[[Host], dict[str, Any]], str]] = {
    "more videos than placeholders": (lambda h: valid(h) | vision(h, [5, -4, 3, -4, 6]), MORE),
    "fewer videos than placeholders": (lambda h: valid(h) | vision(h, [5, -2, 6]), FEWER),
    "no video for the second row": (
        lambda h: dict(h.batch([5, -4, 6], [2, -4, 3]).inputs) | vision(h, [5, -4, 6]),
        FEWER,
    ),
    "a missing placeholder": (without_last_placeholder, "more videos than placeholders|do not form images of 2 x 2"),
    "no placeholder": (lambda h: h.batch([20]).inputs | vision(h, [5, -4, 6]), "more videos|do not form images"),
    "no videos": (without_videos, "empty"),
    "a video without frames": (without_frames, "empty"),
    "NaN pixels": (lambda h: valid(h) | {pixels(h): valid(h)[pixels(h)] * float("nan")}, "NaN"),
    "a label on a dropped column": (changed(labels=lambda h: valid(h)["input_ids"]), "labels are on placeholders"),
    "a 4-D mask": (changed(attention_mask=lambda h: ids_like(h, 1, 1, 9, 9)), "attention_mask must be"),
    "a mask of another length": (changed(attention_mask=lambda h: ids_like(h, 1, 9)), "attention_mask must be"),
    "a dict of masks": (changed(attention_mask={"full": None}), "attention_mask must be.*dict"),
    "labels of another length": (changed(labels=lambda h: ids_like(h, 1, 9)), "labels must be"),
    "a shifted label on a dropped column": (
        changed(shift_labels=lambda h: valid(h)["input_ids"]),
        "labels are on placeholders",
    ),
    "shifted labels of another length": (changed(shift_labels=lambda h: ids_like(h, 1, 9)), "shift_labels must be"),
    "raw and encoded video": (raw_and_encoded, "both raw"),
    "neither ids nor embeddings": (lambda h: without(valid(h), "input_ids"), "pass input_ids, or inputs_embeds"),
    "embeddings without a placeholder": (embedded, "more videos than placeholders|do not form images"),
    "embeddings of another length than the ids": (
        changed(inputs_embeds=torch.zeros(1, 9, 32)),
        "inputs_embeds must be",
    ),
    "embeddings as a list": (
        lambda h: without(valid(h), "input_ids") | {"inputs_embeds": [[0.0]]},
        "pass input_ids, or inputs_embeds",
    ),
    "packed sequences": (packed, "packed sequences"),
    "ids as a list": (changed(input_ids=[[1, 2]]), "input_ids must be a tensor.*list"),
    "a number as query": (changed(query=5), "query must be text"),
    "numbers as queries": (changed(query=[5]), "each query must be text or a tensor"),
    "a number as times": (changed(times=5), "times must be a list"),
    "words as times": (changed(times=["a"]), "times must be seconds"),
    "numbers as pixels": (other_pixels([1, 2]), "pixel_values(_videos)? must be a tensor"),
    "text as pixels": (other_pixels("a"), "pixel_values(_videos)? must be a tensor"),
    "an array as pixels": (other_pixels(torch.zeros(1, 4, 3, 16, 16).numpy()), "pixel_values(_videos)? must be a ten"),
}


def calls(run: Callable[..., Any], host: Host, names: Any) -> dict[str, tuple[Callable[[], Any], str]]:
    return {name: (partial(lambda make: run(**make(host)), BAD_INPUTS[name][0]), BAD_INPUTS[name][1]) for name in names}


def test_invalid_inputs_are_refused(host: Host) -> None:
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert not wrongly_handled(InputError, calls(host.model, host, BAD_INPUTS))


def test_generate_refuses_invalid_inputs(host: Host) -> None:
    names = ["more videos than placeholders", "a 4-D mask", "no videos", "embeddings without a placeholder"]
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        assert not wrongly_handled(InputError, calls(partial(host.model.generate, max_new_tokens=2), host, names))


@pytest.mark.parametrize("name", [name for name in HOSTS if name not in IMAGE_RUN_HOSTS])
def test_counts_that_match_only_in_total_are_refused(name: str) -> None:
    """Runs of images are not counted by row: their hosts assign images in order, regardless of the prompts."""
    host = build(name)
    ids = host.batch([2, -3, 2], [2, -5, 2]).inputs
    uniform = framefold.build("uniform", 0.25)
    with framefold.attach(host.model, uniform), pytest.raises(InputError, match="rows do not match"):
        host.model(**ids | vision(host, [2, -4, 2], [2, -4, 2]))


class Broken(Positive):
    """Damages its result after the checks of the base class."""

    def __init__(self, damage: Callable[[Any], Any]) -> None:
        super().__init__()
        self.damage = damage

    def forward(self, video: Any, query: Any = None) -> Any:
        return self.damage(framefold.build("uniform", 0.5)(video))


def damaged(**change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def damage(out: Any) -> Any:
        return replace(out, tokens=replace(out.tokens, **{name: make(out.tokens) for name, make in change.items()}))

    return damage


BAD_COMPRESSORS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NaN": (damaged(features=lambda t: t.features * float("nan")), "NaN"),
    "no tokens": (damaged(features=lambda t: t.features[:0], index=lambda t: t.index[:0]), "no tokens"),
    "unsorted anchors": (damaged(index=lambda t: t.index.flip(0)), "strictly ascending"),
    "a repeated anchor": (damaged(index=lambda t: t.index.clamp(min=int(t.index[1]))), "strictly ascending"),
    "anchors outside the grid": (damaged(index=lambda t: t.index + 1000), "outside the grid"),
    "another width": (damaged(features=lambda t: t.features[:, :8]), "changed width"),
    "another dtype": (damaged(features=lambda t: t.features.double()), "changed width or dtype"),
    "fewer anchors than tokens": (damaged(index=lambda t: t.index[:-1]), "anchors"),
    "no Compressed": (lambda out: out.tokens.features, "must return Compressed"),
}


def test_a_compressor_that_breaks_its_contract_is_refused(host: Host) -> None:
    def run(damage: Callable[[Any], Any]) -> None:
        with framefold.attach(host.model, Broken(damage)):
            host.model(**valid(host))

    cases = {name: (partial(run, damage), message) for name, (damage, message) in BAD_COMPRESSORS.items()}
    assert not wrongly_handled(ContractError, cases)


BAD_GRIDS: dict[str, tuple[Any, str]] = {
    "none": (None, r"must be \(videos, 3\)"),
    "two numbers": (torch.tensor([[4, 4]]), r"must be \(videos, 3\)"),
    "more patches than pixels": (torch.tensor([[5, 4, 6]]), "must be.*values"),
    "fewer patches than pixels": (torch.tensor([[4, 2, 6]]), "must be.*values"),
    "sides that cannot be merged": (torch.tensor([[4, 3, 8]]), "divisible by the merge sizes"),
    "no height": (torch.tensor([[4, 0, 6]]), "empty"),
    "fractions": (torch.tensor([[4.0, 4.0, 6.0]]), "video_grid_thw must be whole numbers"),
}


@pytest.mark.parametrize("name", PATCH_HOSTS)
def test_grids_that_do_not_match_the_pixels_are_refused(name: str) -> None:
    host = build(name)
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        cases = {
            case: (partial(host.model, **valid(host) | {"video_grid_thw": grid}), message)
            for case, (grid, message) in BAD_GRIDS.items()
        }
        assert not wrongly_handled(InputError, cases)


@pytest.mark.parametrize("name", [name for name in MROPE_HOSTS if HOSTS[name].reads_types and name != "qwen2_5_vl"])
def test_hosts_that_require_token_types_still_do(name: str) -> None:
    host = build(name)
    inputs = without(valid(host), "mm_token_type_ids")
    with pytest.raises(ValueError, match="mm_token_type_ids"):
        host.model(**inputs)
    with framefold.attach(host.model, KEEPING()):
        for run in (host.model, host.model.generate):
            with pytest.raises(InputError, match="mm_token_type_ids"):
                run(**inputs)


def test_a_host_that_treats_a_video_without_token_types_as_text_still_does() -> None:
    host = build("qwen2_5_vl")
    inputs = without(valid(host), "mm_token_type_ids")
    logits, tokens = host.model(**inputs).logits, host.model.generate(**inputs, max_new_tokens=3)
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(host.model(**inputs).logits, logits)
        assert torch.equal(host.model.generate(**inputs, max_new_tokens=3), tokens)


def test_seconds_per_step_must_be_numbers() -> None:
    host = build("qwen2_5_vl")
    with framefold.attach(host.model, framefold.build("uniform", 0.5)):
        for seconds in (["a"], 3 + 4j, torch.tensor([float("nan")])):
            with pytest.raises(InputError, match="seconds"):
                host.model(**valid(host) | {"second_per_grid_ts": seconds})


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_clips_must_be_whole_numbers(name: str) -> None:
    host = build(name)
    with framefold.attach(host.model, framefold.build("uniform", 0.5)):
        for clips in ("abcd", 5, [0.5] * 4):
            with pytest.raises(InputError, match="clips must be whole numbers"):
                host.model(**valid(host), clips=clips)


def test_a_video_that_the_processor_has_pruned_is_refused() -> None:
    host = build("video_llama_3")
    mask = torch.ones(24, dtype=torch.bool)
    bare = host.model(**valid(host)).logits
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(host.model(**valid(host), video_compression_mask=mask).logits, bare)
        mask[3] = False
        with pytest.raises(InputError, match="use_token_compression=False"):
            host.model(**valid(host), video_compression_mask=mask)
        for sizes in (None, torch.tensor([2, 2]), torch.tensor([0])):
            with pytest.raises(InputError, match="video_merge_sizes must be"):
                host.model(**valid(host) | {"video_merge_sizes": sizes})


@pytest.mark.parametrize("name", CLIP_HOSTS)
def test_a_video_without_a_batch_dimension_is_refused(name: str) -> None:
    host = build(name)
    inputs = valid(host)
    with framefold.attach(host.model, framefold.build("uniform", 0.25)):
        with pytest.raises(InputError, match=r"must be \(videos, frames"):
            host.model(**inputs | {"pixel_values_videos": inputs["pixel_values_videos"][0]})
        for row in (inputs["pixel_values_videos"], list(inputs["pixel_values_videos"])):
            assert host.model(**inputs | {"pixel_values_videos": row}).logits.isfinite().all()
