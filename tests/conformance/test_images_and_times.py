"""Every family: images next to a video are kept, times reach the compressor, and third parties can add families."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers

import framefold
from framefold.adapters.hosts import encode, list_families, register_family
from framefold.adapters.hosts.base import family
from framefold.adapters.hosts.base.image_runs import guess_clips
from framefold.errors import InputError, UnsupportedHostError
from tests.support.hosts.bare_hosts import DROPPING, IMAGE_RUN_HOSTS, KEEPING, VIDEO_ONLY_HOSTS, Batch, Host, build
from tests.support.hosts.images import image_arguments, noise
from tests.support.hosts.oracles import CONTROL, TOLERANCE, max_difference, run_kept, shorten, shorten_row
from tests.support.hosts.refusals import wrongly_handled
from tests.support.hosts.tiny_families import HOSTS, IMAGE
from tests.support.hosts.tiny_hosts import Positive

FRAMES = 6


def image_and_video(host: Host) -> Batch:
    """Return a prompt with an image, then a video."""
    image = image_arguments(host)
    features = family.features_of(host.model, "image", image).pooler_output
    count = sum(part.shape[:-1].numel() for part in features)
    return with_image(host, [5, -FRAMES, 6], count, image)


def with_image(host: Host, row: list[int], count: int, image: dict[str, Any], stills: int = 0) -> Batch:
    """Insert the placeholders of an image after the second word of a prompt."""
    inputs = dict(host.batch(row).inputs)
    ids = inputs["input_ids"]
    inputs["input_ids"] = torch.cat([ids[:, :2], torch.full((1, count), IMAGE), ids[:, 2:]], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if (types := inputs.get("mm_token_type_ids")) is not None:
        inputs["mm_token_type_ids"] = torch.cat([types[:, :2], types.new_ones(1, count), types[:, 2:]], dim=1)
    return Batch(host, [row], "left", inputs | image, stills)


def still_and_clip(host: Host) -> Batch:
    """Return a prompt with a still, then a clip, for hosts that take both as images."""
    pixels = noise(FRAMES + 1, 3, 16, 16)
    image = {"pixel_values": pixels[None] if host.name == "smolvlm" else pixels}
    return with_image(host, [5, -FRAMES, 6], host.tiny.tokens, image, stills=host.tiny.tokens)


def check_image_is_kept(host: Host, batch: Batch, inputs: dict[str, Any]) -> None:
    """Check that identity is bit-identical, and that dropping equals a prompt without these columns."""

    def run(inputs: dict[str, Any]) -> list[torch.Tensor]:
        return [host.model(**inputs).logits, host.model.generate(**inputs, max_new_tokens=3)]

    bare = run(batch.inputs)
    with framefold.attach(host.model, KEEPING()):
        assert all(map(torch.equal, run(inputs), bare))
    for make in DROPPING.values():
        compressor = make()
        short = shorten_row(batch, compressor)
        with framefold.attach(host.model, compressor):
            found, tokens = run(inputs)
            again = host.model(**inputs).logits[:, -1].argmax(-1)
        assert max_difference(list(found), run_kept(batch, [short])) < TOLERANCE
        assert tokens[0, -3] == again and (found[0, -1] - bare[0][0, -1]).abs().max() > CONTROL


@pytest.mark.parametrize("name", HOSTS)
def test_an_image_next_to_the_video_is_kept(name: str) -> None:
    """Some hosts use one placeholder for images and videos, and accept no image next to an encoded video."""
    host = build(name)
    if name in VIDEO_ONLY_HOSTS:
        inputs = host.batch([5, -FRAMES, 6]).inputs | image_arguments(host)
        with framefold.attach(host.model, framefold.build("uniform")), pytest.raises(InputError, match="images toget"):
            host.model(**inputs)
    elif name in IMAGE_RUN_HOSTS:
        batch = still_and_clip(host)
        check_image_is_kept(host, batch, batch.inputs)  # a single image is assumed to be a still
        check_image_is_kept(host, batch, batch.inputs | {"clips": [-1, *[0] * FRAMES]})
    else:
        batch = image_and_video(host)
        check_image_is_kept(host, batch, batch.inputs)


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_clips_of_the_caller_override_the_guess(name: str) -> None:
    host = build(name)
    inputs, uniform = host.batch([5, -6, 6]).inputs, framefold.build("uniform", 1)
    with framefold.attach(host.model, uniform):
        for clips, kept in (([0] * 6, 1), ([0, 0, 0, 1, 1, 1], 2), ([-1, -1, 0, 0, 0, 0], 9), ([-1] * 6, 24)):
            columns = host.model(**inputs, clips=clips).logits.shape[1]
            assert columns == inputs["input_ids"].shape[1] - 24 + kept, clips


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_impossible_clips_are_refused(name: str) -> None:
    host = build(name)
    run = partial(host.model, **host.batch([5, -3, 6], [2, -3, 1]).inputs)
    cases = {
        "too few": (partial(run, clips=[0] * 5), "one number for each of the 6"),
        "interleaved": (partial(run, clips=[0, 1, 0, 1, 1, 1]), "follow each other"),
        "across rows": (partial(run, clips=[0] * 6), "in one row"),
    }
    with framefold.attach(host.model, framefold.build("uniform")):
        assert not wrongly_handled(InputError, cases)


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_a_picture_in_a_later_turn_continues_a_compressed_prompt(name: str) -> None:
    """Pictures are passed as the frames of videos are, but need no compression."""
    host = build(name)
    first = host.batch([5, -FRAMES, 6], [9, -FRAMES, 3])
    pixels = noise(2, 3, 16, 16)
    pixels = pixels[:, None] if name == "smolvlm" else pixels
    turn = torch.tensor([[3, 4, *[IMAGE] * host.tiny.tokens, 5, 6], [7, *[IMAGE] * host.tiny.tokens, 8, 3, 4]])
    mask = torch.cat([first.inputs["attention_mask"], torch.ones_like(turn)], dim=1)
    videos = first.inputs["pixel_values"]
    if name == "internvl":
        images = torch.cat([videos.unflatten(0, (2, -1)), pixels[:, None]], dim=1).flatten(0, 1)
    else:
        images = torch.cat([videos, pixels], dim=1)
    ids = torch.cat([first.inputs["input_ids"], turn], dim=1)
    conversation = {"input_ids": ids, "attention_mask": mask, "pixel_values": images}
    conversation["clips"] = [*[0] * FRAMES, -1, *[1] * FRAMES, -1]
    for make in (KEEPING, *DROPPING.values()):
        with framefold.attach(host.model, make()), torch.no_grad():
            expected = host.model(**conversation).logits[:, -turn.shape[1] :]
            for more in ({"attention_mask": mask}, {"attention_mask": mask, "clips": [-1, -1]}):
                cache = host.model(**first.attached_inputs, use_cache=True).past_key_values
                found = host.model(input_ids=turn, pixel_values=pixels, past_key_values=cache, **more).logits
                assert max_difference([found], [expected]) < TOLERANCE


def test_clips_are_guessed_from_rows_gaps_and_the_token_before() -> None:
    first, second = 58, 57  # tokens before images
    row = [1, first, IMAGE, IMAGE, 2, first, IMAGE, IMAGE, 3, second, IMAGE, IMAGE, IMAGE, IMAGE, second, IMAGE, IMAGE]
    ids = torch.tensor([row, row])
    starts = torch.tensor([[r, c] for r in range(2) for c in (2, 6, 10, 12, 15)])
    # two frames, then two adjacent tiles of one picture, then a single image
    clips = guess_clips(ids, starts, 2)
    assert clips[0] == clips[1] != clips[5] == clips[6] and min(clips[0], clips[5]) >= 0
    assert [clips[i] for i in (2, 3, 4, 7, 8, 9)] == [-1] * 6
    # a single image, then two tiles after the same token
    row = [1, first, IMAGE, IMAGE, 3, first, IMAGE, IMAGE, IMAGE, IMAGE, 4]
    assert guess_clips(torch.tensor([row]), torch.tensor([[0, 2], [0, 6], [0, 8]]), 2) == [-1, -1, -1]


def test_seconds_between_frames_reach_the_compressor() -> None:
    host, times = build("qwen2_5_vl"), []

    class Spy(Positive):
        def compress(self, video: Any, k: int, query: Any) -> Any:
            times.append(video.times.tolist())
            return video.keep(torch.arange(3))

    inputs = host.batch([5, -3, 6], [4, -2, 3]).inputs
    assert inputs["second_per_grid_ts"].tolist() == [0.5, 1.5]
    with framefold.attach(host.model, Spy()):
        host.model(**inputs)
        host.model.generate(**inputs, max_new_tokens=1)
        host.model(**inputs, times=[torch.arange(3) * 2.0, None])
    assert times == [[0, 0.5, 1], [0, 1.5]] * 2 + [[0, 2, 4], [0, 1.5]]
    with framefold.attach(host.model, Spy()), pytest.raises(InputError, match="second_per_grid_ts has 1 entries"):
        host.model(**inputs | {"second_per_grid_ts": torch.ones(1)})


def test_every_video_may_have_its_own_merge_size() -> None:
    host = build("video_llama_3")
    ids = torch.tensor([[5, 6, *[host.tiny.placeholder] * (3 * 24), 7, *[host.tiny.placeholder] * (3 * 6), 8, 9]])
    inputs = host.batch([5, -3, 3, -3, 2]).inputs | {"input_ids": ids, "video_merge_sizes": torch.tensor([1, 2])}
    inputs["attention_mask"] = torch.ones_like(ids)
    bare = host.model(**inputs).logits
    assert [tuple(video.features.shape[:3]) for video in encode(host.model, inputs)] == [(3, 4, 6), (3, 2, 3)]
    with framefold.attach(host.model, KEEPING()):
        assert torch.equal(host.model(**inputs).logits, bare)
    with framefold.attach(host.model, framefold.build("uniform", 1 / 3)):
        assert host.model(**inputs).logits.shape[1] == ids.shape[1] - 2 * 24 - 2 * 6


def third_party() -> tuple[Callable[[], Any], Any]:
    """Return a builder of a host of an unknown class and model_type, and a family for it."""
    known = family._FAMILIES["qwen2_vl"]

    class TheirConfig(transformers.Qwen2VLConfig):
        model_type = "their_vl"

    class TheirHost(transformers.Qwen2VLForConditionalGeneration):
        config_class = TheirConfig

    class Their(type(known)):  # type: ignore[misc]
        model_type = "their_vl"
        classes = ("TheirHost",)

    def make() -> Any:
        fields = HOSTS["qwen2_vl"].config().to_dict()
        torch.manual_seed(0)
        return TheirHost(TheirConfig(**{k: v for k, v in fields.items() if k != "model_type"})).eval()

    return make, Their()


def test_a_third_party_can_add_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "_FAMILIES", dict(family._FAMILIES))
    make, theirs = third_party()
    host = Host("qwen2_vl", HOSTS["qwen2_vl"], make())
    batch, compressor = host.batch([5, -6, 6]), framefold.build("uniform", 0.25)
    with pytest.raises(UnsupportedHostError, match="TheirHost.*'their_vl'"):
        framefold.attach(host.model, compressor)
    register_family(theirs)
    assert "their_vl" in list_families()
    with framefold.attach(host.model, compressor), torch.no_grad():
        found = host.model(**batch.inputs).logits
    assert max_difference(list(found), run_kept(batch, shorten(batch, compressor))) < TOLERANCE
