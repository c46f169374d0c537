"""Tiny hosts under test, prompts for them whose rows can be taken apart, and the compressors of the conformance suite.

Dimensions: B rows, L columns, P placeholders, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor

import framefold
from framefold.adapters import VideoTokens
from tests.support.hosts.tiny_families import HOSTS, TinyHost
from tests.support.hosts.tiny_hosts import Positive, TopNorm

MATRIX = [(name, attention) for name in HOSTS for attention in ("eager", "sdpa")]
CLIP_HOSTS = [name for name in HOSTS if name in ("internvl", "smolvlm")]  # frames arrive as runs of images
MROPE = [name for name, tiny in HOSTS.items() if tiny.token_types]

# What bare hosts cannot do themselves, whatever is attached.
OLD = Version(transformers.__version__) < Version("5.21")
BEAMS_FAIL = ["glm4v", *(["llava_next_video"] if OLD else [])]  # with a video: they fail on an empty list


@dataclass(frozen=True, eq=False)
class Host:
    """A tiny host, bare unless a test attaches to it."""

    name: str
    tiny: TinyHost
    model: Any
    batches: dict[str, Batch] = field(default_factory=dict)

    @property
    def language(self) -> Any:
        """Its language model."""
        base = self.model.base_model
        return getattr(base, "language_model", None) or base.text_model

    def batch(self, *rows: Sequence[int], side: str = "left", mask: bool = True, seed: int = 1) -> Batch:
        """Prompts with videos: a positive part is so many words, a negative one a video of so many frames."""
        key = repr((rows, side, mask, seed))  # kept, because what the bare host sees in them is asked for often
        if key not in self.batches:
            self.batches[key] = Batch(self, list(rows), side, self.tiny.inputs(*rows, side=side, mask=mask, seed=seed))
        return self.batches[key]


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts and the arguments of the host for them."""

    host: Host
    rows: list[Sequence[int]]
    side: str
    inputs: dict[str, Any]
    stills: int = 0  # placeholders in front that belong to no video, although their id is that of videos

    @functools.cached_property
    def seen(self) -> Seen:
        """What the language model of the bare host is given for them."""
        return look(self.host, self.inputs)

    @functools.cached_property
    def singles(self) -> list[Batch]:
        """Each row without its padding."""
        return [self._alone(row) for row in range(len(self.rows))]

    @property
    def frames(self) -> list[list[int]]:
        """Frames of the videos of each row."""
        return [[-part for part in row if part < 0] for row in self.rows]

    @property
    def plugged(self) -> dict[str, Any]:
        """The arguments for an attached host: runs of images cannot be told apart where a row has two."""
        if self.host.name not in CLIP_HOSTS or "pixel_values" not in self.inputs:
            return self.inputs
        videos = [frames for row in self.frames for frames in row]
        return self.inputs | {"clips": [video for video, frames in enumerate(videos) for _ in range(frames)]}

    @property
    def starts(self) -> list[int]:
        """The column of each row's first token that is no padding."""
        mask = self.inputs.get("attention_mask", torch.ones_like(self.inputs["input_ids"]))
        return mask.argmax(-1).tolist()

    @property
    def lengths(self) -> list[int]:
        """Columns of each row without its padding."""
        mask = self.inputs.get("attention_mask", torch.ones_like(self.inputs["input_ids"]))
        return mask.sum(-1).tolist()

    def _alone(self, row: int) -> Batch:
        inputs, frames = self.inputs, self.frames
        ids = inputs["input_ids"][row]
        real = inputs["attention_mask"][row].bool() if "attention_mask" in inputs else torch.ones_like(ids).bool()
        one = {name: value[row : row + 1, real] for name, value in inputs.items() if value_a_column(value, inputs)}
        before = [t for earlier in frames[:row] for t in earlier]
        if frames[row]:
            one |= vision_of(inputs, row, before, frames[row])
        return Batch(self.host, [self.rows[row]], self.side, one)

    def with_tokens(self, tokens: Tensor) -> Batch:
        """The prompts continued by (B, new) tokens."""
        new = dict(self.inputs)
        new["input_ids"] = torch.cat([new["input_ids"], tokens], dim=1)
        for name, fill in {"attention_mask": 1, "mm_token_type_ids": 0}.items():
            if name in new:
                new[name] = torch.cat([new[name], torch.full_like(tokens, fill).to(new[name])], dim=1)
        return replace(self, inputs=new)

    def labels(self, last: int = 3) -> Tensor:
        """The ids of the last columns of each row as labels, -100 elsewhere; for prompts padded on the left."""
        labels = self.inputs["input_ids"].clone()
        labels[:, :-last] = -100
        return labels


def value_a_column(value: Any, inputs: dict[str, Any]) -> bool:
    """Whether an argument has one value a column."""
    return isinstance(value, Tensor) and value.shape == inputs["input_ids"].shape


def vision_of(inputs: dict[str, Any], row: int, before: list[int], mine: list[int]) -> dict[str, Any]:
    """The arguments of the vision side for the videos of one row, out of those of a batch."""
    videos = slice(len(before), len(before) + len(mine))
    out = {
        name: inputs[name][videos]
        for name in ("video_grid_thw", "second_per_grid_ts", "video_merge_sizes")
        if name in inputs
    }
    if (images := inputs.get("pixel_values")) is not None:
        padded = images.ndim == 5  # (rows, images of a row, ...), else one after the other
        return {"pixel_values": images[row : row + 1, : sum(mine)] if padded else images[sum(before) :][: sum(mine)]}
    pixels = inputs["pixel_values_videos"]
    if "video_grid_thw" in inputs:
        patches = inputs["video_grid_thw"].prod(-1)
        start = int(patches[: videos.start].sum())
        return out | {"pixel_values_videos": pixels[start : start + int(patches[videos].sum())]}
    clips = pixels[videos]
    if not isinstance(clips, Tensor) and len(set(mine)) == 1:
        clips = torch.stack(list(clips))
    return {"pixel_values_videos": clips}


@dataclass(frozen=True)
class Seen:
    """What the language model of a bare host is given for a batch.

    Attributes:
        embeds: (B, L, D) embeddings, those of the videos in place.
        positions: (B, L), or (3, B, L) where columns have a position in time, height and width.
        visual: (B, L) bool, placeholders of videos and images.
        layers: per deepstack layer, (P, D) features of the P placeholders of the batch.
    """

    embeds: Tensor
    positions: Tensor
    visual: Tensor
    layers: list[Tensor] = field(default_factory=list)


def look(host: Host, inputs: dict[str, Any]) -> Seen:
    """Run the bare host and note what its language model is given."""
    seen: list[dict[str, Any]] = []
    with listening(host, lambda kwargs: seen.append(kwargs)), torch.no_grad():
        host.model(**inputs, use_cache=False)
    given = seen[-1]
    embeds, positions = given["inputs_embeds"], given.get("position_ids")
    if positions is None:
        positions = torch.arange(embeds.shape[1]).expand(embeds.shape[:2])
    layers = list(given.get("deepstack_visual_embeds") or ())
    visual = given["visual_pos_masks"] if layers else inputs["input_ids"] == host.tiny.placeholder
    return Seen(embeds, positions, visual, layers)


@contextmanager
def listening(host: Host, tell: Callable[[dict[str, Any]], Any]) -> Iterator[None]:
    """Tell of the keyword arguments of every run of the language model."""
    hook = host.language.register_forward_pre_hook(lambda _, args, kwargs: tell(kwargs), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


class AboveMean(Positive):
    """Keeps the tokens whose first feature is above its mean: another number in every video, never none."""

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        first = video.features[:, 0]
        return video.keep((first > first.mean()).nonzero()[:, 0])


@functools.cache
def quiet() -> None:
    """Tiny models gain nothing from threads, and padding on the right is what some tests are about."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()


def build(name: str, attention: str = "sdpa", **arguments: Any) -> Host:
    """A tiny host with random weights."""
    quiet()
    return Host(name, HOSTS[name], HOSTS[name].build(attention, **arguments))


def compressors() -> dict[str, Callable[[], Any]]:
    """The compressors that every family is tested with, as recipes; a trainable one is changed by `stir`."""
    return {
        "identity": lambda: framefold.build("identity"),
        "uniform": lambda: framefold.build("uniform", 0.25),
        "pool": lambda: framefold.build("pool", 0.3),
        "st_simdiff": lambda: framefold.build("st_simdiff", 0.25),
        "fila": lambda: framefold.build("fila", 0.3),
        "above_mean": AboveMean,
        "top_norm": TopNorm,
    }


def stir(compressor: Any) -> Any:
    """Move the parameters away from where they start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return compressor
