"""Hosts that take frames as images: videos and pictures are told apart, and pictures alone run as in the bare host."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import framefold
from framefold.adapters.hosts import encode, prepare
from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.hooks.losses import compressor_losses
from framefold.adapters.hosts.prompt.frame_clips import clips_in_row
from framefold.adapters.hosts.prompt.row_text import RowDecoder
from framefold.errors import InputError
from tests.support.hosts.bare_hosts import IMAGE_RUN_HOSTS, KEEPING, Host, build
from tests.support.hosts.tiny_families import HOSTS, IMAGE, without
from tests.support.hosts.tiny_hosts import TopNorm
from tests.support.processes import needs_torchvision, python


@needs_torchvision
def test_videos_and_pictures_of_real_processors_are_told_apart(tmp_path: Path) -> None:
    """Videos of equal and unequal length and of one frame; pictures before, after, between, alone and in tiles."""
    done = python("-m", "tests.support.hosts.picture_trials", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    trials = json.loads((tmp_path / "trials.json").read_text())
    wrong = {case: [check for check, right in result.items() if not right] for case, result in trials.items()}
    assert len(trials) > 30 and not {case: checks for case, checks in wrong.items() if checks}


# ---- text -----------------------------------------------------------------------------------------------------------

WORDS = ["<unk>", "<pad>", "<end>", "<turn>", "<img>", "|", "Frame", "from", "You", "is", "it", ":", *"0123456789"]
INTRODUCTION = "You are provided the following series of {} frames from a 0:00:04 [H:MM:SS] video."
PER_IMAGE = 2


@pytest.fixture(scope="module")
def decoder() -> RowDecoder:
    words = dict.fromkeys([*WORDS, *INTRODUCTION.replace(":", " : ").replace("0", "").split(), "MM", "SS", "[H", "H"])
    texts = Tokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="<unk>"))
    digits = pre_tokenizers.Digits(individual_digits=True)
    split = pre_tokenizers.Split(":", "isolated")
    texts.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), split, digits])
    special = ["<pad>", "<end>", "<turn>", "<img>"]
    texts.add_special_tokens(special)
    return RowDecoder.from_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=texts, unk_token="<unk>", additional_special_tokens=special)
    )


def clips_in(decoder: RowDecoder, name: str, prompt: str) -> list[int]:
    """Return the clips of a prompt in which each ``|`` is an image and ``||`` are two tiles of one picture."""
    ids: list[int] = []
    for word in prompt.replace("|", " | ").split():
        new = decoder.tokenizer(word, add_special_tokens=False)["input_ids"]
        ids += new * PER_IMAGE if word == "|" else new
    visual = [id == decoder.tokenizer.convert_tokens_to_ids("|") for id in ids]
    family = family_of(HOSTS[name].build())
    return clips_in_row(family, decoder.decode(ids, visual), PER_IMAGE)  # type: ignore[arg-type]


def frames(count: int) -> str:
    return " ".join(f"Frame{number}: <img>|<end>" for number in range(1, count + 1))


def timed(*times: str) -> str:
    return " ".join(f"Frame from {time}: <img>|<end>" for time in times)


INTERNVL: dict[str, list[int]] = {
    f"is it {frames(3)} is it": [0, 0, 0],
    f"{frames(11)}": [0] * 11,
    f"{frames(2)} {frames(3)}": [0, 0, 1, 1, 1],
    f"{frames(1)} {frames(1)}": [0, 1],
    f"{frames(2)} is it {frames(2)}": [0, 0, 1, 1],
    f"<turn> {frames(2)} <pad> <turn> {frames(2)}": [0, 0, 1, 1],  # packed
    f"<img>|<end> {frames(2)}": [-1, 0, 0],
    f"{frames(2)} <img>|<end>": [0, 0, -1],
    f"{frames(2)} <img>|<end> {frames(2)} is <img>||<end>": [0, 0, -1, 1, 1, -1, -1],
    "<img>|<end> <img>|<end> is <img>|<end>": [-1, -1, -1],
    "is it Frame 7: <img>|<end>": [-1],  # a picture with a text of the user
    "Frame1: <img>|<end> Frame2: <img>|<end> Frame9: <img>|<end>": [0, 0, -1],
    "Frame1: <img>||<end>": [-1, -1],
    "Frame1: is <img>|<end>": [-1],
    "Frame4: <img>|<end> Frame5: <img>|<end>": [0, 0],  # the start of the video was cut off
    "Frame2: <img>|<end> is it Frame3: <img>|<end>": [-1, -1],
}
SMOLVLM: dict[str, list[int]] = {
    f"{INTRODUCTION.format(4)} {timed('00:00', '00:00', '00:01', '01:00')}": [0] * 4,
    f"{INTRODUCTION.format(2)} {timed('00:00', '00:01')} {INTRODUCTION.format(1)} {timed('00:01')}": [0, 0, 1],
    f"{INTRODUCTION.format(1)} {timed('00:00')} {INTRODUCTION.format(1)} {timed('00:00')}": [0, 1],
    f"{timed('00:02', '00:03')} {timed('00:00', '00:01', '00:02')}": [0, 0, 1, 1, 1],
    f"{timed('99:59', '100:00')}": [0, 0],
    f"{timed('00:00')} is {timed('00:01')}": [0, 1],
    f"<img>|<end> {INTRODUCTION.format(2)} {timed('00:00', '00:01')} <img>|<end>": [-1, 0, 0, -1],
    "<img>|<end> <img>|<end>": [-1, -1],
}


def test_videos_are_read_in_the_text_before_images(decoder: RowDecoder) -> None:
    for name, cases in (("internvl", INTERNVL), ("smolvlm", SMOLVLM)):
        found = {prompt: clips_in(decoder, name, prompt) for prompt in cases}
        assert found == cases


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_clips_without_a_tokenizer_are_guessed_with_a_warning(name: str) -> None:
    host = build(name)
    inputs = host.batch([5, -3, 6]).inputs
    with pytest.warns(UserWarning, match=r"no tokenizer.*attach\(\.\.\., tokenizer=processor\).*clips="):
        assert [len(clip.features) for clip in encode(host.model, inputs)] == [3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(encode(host.model, inputs | {"clips": [0, 0, 0]})) == 1
        assert len(encode(host.model, host.batch([5, -1, 6]).inputs)) == 1  # a still


# ---- batches that need no compression -------------------------------------------------------------------------------


def pictures(host: Host) -> dict[str, Any]:
    """Return two rows: a picture of two tiles, and one of one tile; the pixels of the first are in two images."""
    inputs = dict(host.batch([5, -2, 6], [12, -1, 6]).inputs)
    tiles = [IMAGE] * (2 * host.tiny.tokens)
    rows = [[7, 8, 9, *tiles, 10, 11, 12], [13, 14, *tiles[: host.tiny.tokens], 15]]
    longest = len(rows[0])
    inputs["input_ids"] = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    inputs["attention_mask"] = (inputs["input_ids"] != 0).long()
    return inputs


def unusual(host: Host, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return arguments that cannot be compressed or that are changed by compression."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    columns = torch.arange(ids.shape[1])
    causal = (columns <= columns[:, None]) & mask[:, None, None, :].bool()
    labels = ids.masked_fill(mask == 0, -100)
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    return {
        "nothing": {},
        "labels on everything": {"labels": labels},
        "shifted labels": {"labels": labels, "shift_labels": shifted},
        "embeddings": {"input_ids": None, "inputs_embeds": host.model.get_input_embeddings()(ids)},
        # omni models compute positions from the mask
        **({} if "omni" in host.name else {"a 4-D mask": {"attention_mask": causal}}),
        "packed positions": {"attention_mask": None, "position_ids": (columns % 7).expand(ids.shape)},
        "some logits": {"logits_to_keep": torch.tensor([0, 3])},
        "a number of logits": {"logits_to_keep": 2},
        "no cache": {"use_cache": False},
        "tuples": {"return_dict": False},
    }


OPTIONS: list[dict[str, Any]] = [{}, {"outputs": "full"}, {"positions": "compact"}]


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_pictures_without_a_video_run_as_in_the_bare_host(name: str) -> None:
    host = build(name)
    inputs = pictures(host)
    check_unchanged(host, inputs, {})
    check_unchanged(host, inputs, {"clips": [-1, -1, -1], "query": "w9", "times": []})
    embeds = without(inputs, "input_ids") | {"inputs_embeds": host.model.get_input_embeddings()(inputs["input_ids"])}
    for arguments in (inputs, embeds, inputs | {"inputs_embeds": embeds["inputs_embeds"]}):
        bare = host.model.generate(**arguments, max_new_tokens=3)
        with framefold.attach(host.model, framefold.build("uniform", 1)):
            assert torch.equal(host.model.generate(**arguments, max_new_tokens=3), bare)
            assert torch.equal(host.model.generate(**arguments, max_new_tokens=3, clips=[-1] * 3), bare)
    with framefold.attach(host.model, framefold.build("uniform", 1)), pytest.raises(InputError, match="one number for"):
        host.model(**inputs, clips=[-1])


@pytest.mark.parametrize("name", HOSTS)
def test_text_without_a_video_runs_as_in_the_bare_host(name: str) -> None:
    host = build(name)
    check_unchanged(host, host.batch([9], [5]).inputs, {"query": "w9", "times": []})


def check_unchanged(host: Host, inputs: dict[str, Any], more: dict[str, Any]) -> None:
    """Check that arguments without a video are taken, and that the outputs are those of the bare host."""

    def run(arguments: dict[str, Any]) -> list[Any]:
        host.model.base_model.rope_deltas = None  # of the last batch
        output = host.model(**arguments)
        values = output if isinstance(output, tuple) else (output.get("loss"), output.logits)
        return [value for value in values if isinstance(value, torch.Tensor)]

    for case, arguments in unusual(host, inputs).items():
        given = {name: value for name, value in (inputs | arguments).items() if value is not None}
        bare = run(given)
        for options in OPTIONS:
            with framefold.attach(host.model, framefold.build("uniform", 1), **options):
                assert all(map(torch.equal, run(given | more), bare)), (case, options)


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_pictures_after_a_video_have_no_losses_of_the_compressor(name: str) -> None:
    host, video = build(name), {"clips": [0, 0, 0]}
    host.model.train()
    with framefold.attach(host.model, TopNorm(0.5)):
        host.model(**host.batch([5, -3, 6]).inputs | video)
        assert compressor_losses(host.model).keys() == {"scale"}
        host.model(**pictures(host))
        assert compressor_losses(host.model) == {}


@pytest.mark.parametrize("name", IMAGE_RUN_HOSTS)
def test_pictures_keep_their_pixels_and_clips_are_no_argument_of_the_host(name: str) -> None:
    host = build(name)
    inputs = pictures(host)
    prepared = prepare(host.model, inputs | {"clips": [-1] * 3}, KEEPING())
    assert prepared.kwargs.keys() == inputs.keys() and prepared.prompt is None and not prepared.tokens
    assert prepared.compaction.trivial
