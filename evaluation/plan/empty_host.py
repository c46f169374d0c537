"""A host without values, built from its configuration alone, and a batch of videos without content for it."""

from __future__ import annotations

import inspect
from collections import Counter

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedTokenizerFast

from framefold.adapters.hosts.base.encoded import Encoded
from framefold.adapters.hosts.prompt.vision import encode
from framefold.data.question import Question
from framefold.data.shards.encoded import EncodedSample
from framefold.errors import ConfigError, HostError
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.locate import HostFolder
from framefold.training.frozen_host.processor import first_line, unsupported

from .no_values import NoValues
from .workload import Workload

WORD = 0  # id of every word

MOST_TOKENS = 2**20  # of a video; a plan works on lists of that length, and 2**20 take it about a minute


def empty_host(source: HostFolder, dtype: str, attention: str) -> Host:
    """Build a host on torch's meta device, frozen and in eval mode.

    Args:
        source: folder with its config.json; its weights are not read.
        dtype: of the weights; "auto" is the dtype of the configuration.
        attention: attention implementation of the language model.

    Raises:
        HostError: the family is not supported, or the configuration is damaged.
    """
    if (problem := unsupported(source)) is not None:
        raise HostError(problem)
    try:
        config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None) or torch.float32
        chosen = getattr(torch, str(own).removeprefix("torch.")) if dtype == "auto" else getattr(torch, dtype)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, dtype=chosen, attn_implementation=attention)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise HostError(f"the host in {source.folder} cannot be built: {first_line(error)}") from error
    model.eval().requires_grad_(False)
    return Host(model, one_word_tokenizer(), source=source)


def empty_clip(host: Host, work: Workload, frames: int, values: NoValues, attention: bool) -> Encoded:
    """Encode a video without content.

    Args:
        host: without values.
        work: size of the frames.
        frames: of the video.
        values: the mode, which is active.
        attention: also return the attention that each token received in the vision encoder.
    """
    inputs = host.family.blank_video(host.model, frames, work.height, work.width)
    pixels = inputs[host.family.pixels]
    inputs[host.family.pixels] = values.empty(*pixels.shape, dtype=host.model.dtype)
    inputs.setdefault("input_ids", torch.full((1, 1), WORD))
    with torch.no_grad():
        (clip,) = encode(host.model, inputs, attention, vision_chunk=work.vision_chunk)
    return clip


def longer_clip(clip: Encoded, times: int, values: NoValues) -> Encoded:
    """Return a video of several times as many frames as an encoded one.

    Raises:
        ConfigError: It has more than MOST_TOKENS tokens.
    """
    t = clip.features.shape[0]
    if (tokens := times * int(clip.on_grid.sum())) > MOST_TOKENS:
        raise ConfigError(
            f"frames of this size have {tokens} visual tokens, and a plan is for at most {MOST_TOKENS}: give fewer"
            " frames or a smaller size"
        )

    def longer(tensor: Tensor) -> Tensor:
        return values.empty(times * t, *tensor.shape[1:], dtype=tensor.dtype)

    per_frame = len(clip.extra) % t == 0 and len(clip.extra) > 0  # or at the end of the video
    on_grid = clip.on_grid.repeat(times)
    if not per_frame:
        on_grid = torch.cat([clip.on_grid[clip.on_grid].repeat(times), clip.on_grid[~clip.on_grid]])
    extra = values.empty(int((~on_grid).sum()), clip.extra.shape[1], dtype=clip.extra.dtype)
    return Encoded(
        longer(clip.features),
        extra,
        on_grid,
        tuple(map(longer, clip.deepstack)),
        attention=None if clip.attention is None else longer(clip.attention),
    )


def empty_sample(host: Host, work: Workload, clip: Encoded) -> EncodedSample:
    """Return an encoded video with its questions."""
    placeholder = host.family.placeholder_id(host.model)
    device = host.model.device
    ids = torch.tensor([WORD] * work.prompt_tokens + [placeholder] * len(clip), device=device)
    columns = {"input_ids": ids}
    if "mm_token_type_ids" in inspect.signature(host.model.forward).parameters:
        columns["mm_token_type_ids"] = (ids == placeholder).long() * 2
    mask = torch.ones_like(ids)[None]
    positions = host.family.text_positions(mask, False)[..., 0, :]
    text = " ".join(["word"] * work.question_tokens)
    questions = tuple(Question("open", text, "word", (), ()) for _ in range(work.questions))
    times = torch.arange(clip.features.shape[0], dtype=torch.float32, device=device)
    return EncodedSample(
        "video", questions,
        ((WORD,) * work.question_tokens,) * work.questions,
        ((WORD,) * work.answer_tokens,) * work.questions,
        len(ids),
        features=clip.features, extra=clip.extra, on_grid=clip.on_grid, times=times, columns=columns,
        positions=positions, deepstack=clip.deepstack, attention=clip.attention,
    )  # fmt: skip


def one_word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one word."""
    tokenizer = Tokenizer(models.WordLevel({"word": WORD}, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="word")


def count_parameters(host: Host) -> dict[str, int]:
    """Return the number of parameters of the language model and of the vision side."""
    counts: Counter[str] = Counter()
    for name, parameter in host.model.base_model.named_parameters():
        counts["language" if name.startswith(f"{host.family.language}.") else "tower"] += parameter.numel()
    return dict(counts)
