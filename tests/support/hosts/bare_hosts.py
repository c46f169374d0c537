"""Tiny hosts under test, prompts for them whose rows can be separated, and the stand-in compressors of the suite.

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
from torch import Tensor, nn

import framefold
from framefold.adapters import Compressor, VideoTokens
from framefold.adapters.hosts.base.family import get_family
from tests.support.hosts.tiny_families import HOSTS, IMAGE, VIDEO, TinyHost, language_of
from tests.support.hosts.tiny_hosts import Positive

IMAGE_RUN_HOSTS = [name for name in HOSTS if name in ("internvl", "smolvlm")]  # frames are passed as runs of images
MROPE_HOSTS = [name for name, tiny in HOSTS.items() if tiny.mrope]
GLM_HOSTS = [name for name in HOSTS if name.startswith("glm4")]  # videos have the placeholders of images
VIDEO_ONLY_HOSTS = [name for name in HOSTS if name in GLM_HOSTS or name == "molmo2"]  # or images, but not both
FULL_ATTENTION_HOSTS = [name for name, tiny in HOSTS.items() if tiny.full_attention]
RECURRENT_HOSTS = [name for name in HOSTS if get_family(name).recurrent]

# Limitations of the bare hosts, independent of framefold.
OLD = Version(transformers.__version__) < Version("5.21")
BEAMS_FAIL = [*GLM_HOSTS, *(["llava_next_video"] if OLD else [])]  # with a video, they fail on an empty list
BEAMS_DIFFER = (
    ["qwen3_5", "qwen3_5_moe"] if OLD else []
)  # from their own in 5.23, which attached hosts equal in 5.20, too


@dataclass(frozen=True, eq=False)
class Host:
    """A tiny host without a compressor, unless a test attaches one."""

    name: str
    tiny: TinyHost
    model: Any
    batches: dict[str, Batch] = field(default_factory=dict)

    @property
    def language(self) -> Any:
        """Its language model."""
        return language_of(self.model.base_model)

    def batch(self, *rows: Sequence[int], side: str = "left", mask: bool = True, seed: int = 1) -> Batch:
        """Return prompts with videos: a positive part is a number of words, a negative one a number of frames."""
        key = repr((rows, side, mask, seed))  # cached, because several tests need the bare host's inputs for a batch
        if key not in self.batches:
            self.batches[key] = Batch(self, list(rows), side, self.tiny.inputs(*rows, side=side, mask=mask, seed=seed))
        return self.batches[key]


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts and the host's arguments for them."""

    host: Host
    rows: list[Sequence[int]]
    side: str
    inputs: dict[str, Any]
    stills: int = 0  # leading placeholders of images that have the id of videos

    @functools.cached_property
    def language_inputs(self) -> LanguageInputs:
        """Inputs of the language model in the bare host."""
        return record_language_inputs(self.host, self.inputs)

    @functools.cached_property
    def rows_alone(self) -> list[Batch]:
        """Each row as a batch, without its padding."""
        return [self._row_alone(row) for row in range(len(self.rows))]

    @property
    def frames(self) -> list[list[int]]:
        """Number of frames of the videos of each row."""
        return [[-part for part in row if part < 0] for row in self.rows]

    @property
    def attached_inputs(self) -> dict[str, Any]:
        """Arguments for an attached host; they name the clips where frames are images, as two clips look like one."""
        if self.host.name not in IMAGE_RUN_HOSTS or "pixel_values" not in self.inputs:
            return self.inputs
        videos = [frames for row in self.frames for frames in row]
        return self.inputs | {"clips": [video for video, frames in enumerate(videos) for _ in range(frames)]}

    @property
    def starts(self) -> list[int]:
        """First column of each row that is not padding."""
        mask = self.inputs.get("attention_mask", torch.ones_like(self.inputs["input_ids"]))
        return mask.argmax(-1).tolist()

    @property
    def lengths(self) -> list[int]:
        """Number of columns of each row without padding."""
        mask = self.inputs.get("attention_mask", torch.ones_like(self.inputs["input_ids"]))
        return mask.sum(-1).tolist()

    def _row_alone(self, row: int) -> Batch:
        inputs, frames = self.inputs, self.frames
        ids = inputs["input_ids"][row]
        real = inputs["attention_mask"][row].bool() if "attention_mask" in inputs else torch.ones_like(ids).bool()
        alone = {name: value[row : row + 1, real] for name, value in inputs.items() if has_columns(value, inputs)}
        before = [t for earlier in frames[:row] for t in earlier]
        if frames[row]:
            alone |= vision_arguments(inputs, row, before, frames[row])
        return Batch(self.host, [self.rows[row]], self.side, alone)

    def with_tokens(self, tokens: Tensor) -> Batch:
        """Return the prompts continued by (B, new) tokens."""
        new = dict(self.inputs)
        new["input_ids"] = torch.cat([new["input_ids"], tokens], dim=1)
        for name, fill in {"attention_mask": 1, "mm_token_type_ids": 0}.items():
            if name in new:
                new[name] = torch.cat([new[name], torch.full_like(tokens, fill).to(new[name])], dim=1)
        return replace(self, inputs=new)

    def labels(self, last: int = 3) -> Tensor:
        """Return the ids of the last columns of each row as labels, -100 elsewhere; for padding on the left."""
        labels = self.inputs["input_ids"].clone()
        labels[:, :-last] = -100
        return labels


def has_columns(value: Any, inputs: dict[str, Any]) -> bool:
    """Return whether an argument has one value per column."""
    return isinstance(value, Tensor) and value.shape == inputs["input_ids"].shape


def vision_arguments(inputs: dict[str, Any], row: int, before: list[int], frames: list[int]) -> dict[str, Any]:
    """Return the arguments of the vision side for the videos of one row of a batch.

    Args:
        inputs: arguments of the batch.
        row: the row.
        before: frames of the videos of the rows before.
        frames: frames of the videos of this row.
    """
    videos = slice(len(before), len(before) + len(frames))
    out = {
        name: inputs[name][videos]
        for name in (
            "video_grid_thw",
            "second_per_grid_ts",
            "video_merge_sizes",
            "num_frames_per_video",
            "video_grids",
            "video_second_per_grid",
        )
        if name in inputs
    }
    if (images := inputs.get("pixel_values")) is not None:
        if images.ndim == 5:  # (rows, images of a row, ...)
            return {"pixel_values": images[row : row + 1, : sum(frames)]}
        return {"pixel_values": images[sum(before) :][: sum(frames)]}
    pixels = inputs["pixel_values_videos"]
    if "video_grid_thw" in inputs:
        patches = inputs["video_grid_thw"].prod(-1)
        start = int(patches[: videos.start].sum())
        return out | {"pixel_values_videos": pixels[start : start + int(patches[videos].sum())]}
    if "video_position_ids" in inputs:
        own = slice(sum(before), sum(before) + sum(frames))
        return out | {"pixel_values_videos": pixels[own], "video_position_ids": inputs["video_position_ids"][own]}
    if "video_token_pooling" in inputs:
        first, last = sum(before), sum(before) + sum(frames)
        each, patches = len(inputs["video_token_pooling"]) // len(pixels), pixels.shape[1]
        pooling = inputs["video_token_pooling"][each * first : each * last] - patches * first
        return out | {"pixel_values_videos": pixels[first:last], "video_token_pooling": pooling}
    clips = pixels[videos]
    if not isinstance(clips, Tensor) and len(set(frames)) == 1:
        clips = torch.stack(list(clips))
    return {"pixel_values_videos": clips}


@dataclass(frozen=True)
class LanguageInputs:
    """Inputs of the language model of a bare host for a batch.

    Attributes:
        embeds: (B, L, D) embeddings, including those of the videos.
        positions: (B, L), or (3, B, L) for positions in time, height and width.
        visual: (B, L) bool, placeholders of videos and images.
        layers: per deepstack layer, (P, D) features of the P placeholders of the batch.
        named: further arguments, (B, L, ...).
    """

    embeds: Tensor
    positions: Tensor
    visual: Tensor
    layers: list[Tensor] = field(default_factory=list)
    named: dict[str, Tensor] = field(default_factory=dict)


def record_language_inputs(host: Host, inputs: dict[str, Any]) -> LanguageInputs:
    """Run the bare host and return the inputs of its language model."""
    calls: list[dict[str, Any]] = []
    with recording_calls(host, calls.append), torch.no_grad():
        host.model(**inputs, use_cache=False)
    embeds, positions = calls[-1]["inputs_embeds"], calls[-1].get("position_ids")
    if positions is None:
        positions = torch.arange(embeds.shape[1]).expand(embeds.shape[:2])
    layers = list(calls[-1].get("deepstack_visual_embeds") or ())
    ids = inputs["input_ids"]
    visual = calls[-1]["visual_pos_masks"] if layers else (ids == IMAGE) | (ids == VIDEO)
    named = {name: calls[-1][name] for name in ("per_layer_inputs",) if calls[-1].get(name) is not None}
    return LanguageInputs(embeds, positions, visual, layers, named)


@contextmanager
def recording_calls(host: Host, record: Callable[[dict[str, Any]], Any]) -> Iterator[None]:
    """Call ``record`` with the keyword arguments of every run of the language model."""
    hook = host.language.register_forward_pre_hook(lambda _, args, kwargs: record(kwargs), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


class AboveMean(Positive):
    """Stand-in that drops tokens: keeps those whose first feature is above its mean, so counts differ by video."""

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        first = video.features[:, 0]
        return video.keep((first > first.mean()).nonzero()[:, 0])


class ScaledMerge(Compressor):
    """Stand-in that merges and is trained: averages every third token with the next ones, then scales by a parameter.

    The counts differ by video, some tokens are dropped, and one keeps an anchor without any original. It has no loss,
    so all gradients come through the host.
    """

    trainable = True
    exact_budget = False

    def __init__(self) -> None:
        super().__init__(1.0)
        self.name = "scaled_merge"
        self.scale: nn.Parameter | None = None

    def materialize(self, width: int, grid: tuple[int, int], device: torch.device | None = None) -> None:
        if self.scale is None:
            self.scale = nn.Parameter(torch.ones(width, device=device))

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        assert self.scale is not None
        index = torch.arange(0, len(video), 3) if video.features[0, 0] > 0 else torch.arange(1, len(video), 4)
        numbers = torch.arange(len(video))
        assign = torch.searchsorted(index, numbers, right=True) - 1  # -1 before the first anchor
        assign[numbers % 5 == 4] = -1
        assign[assign == 1] = -1  # the second token has no originals
        member = nn.functional.one_hot(assign.clamp(min=0), len(index)).to(video.features) * (assign >= 0)[:, None]
        size = member.sum(0)
        mean = member.T @ video.features / size.clamp(min=1)[:, None]
        features = torch.where((size > 0)[:, None], mean, video.features[index]) * self.scale.to(mean.dtype)
        return replace(video, features=features, index=index, size=size.long().clamp(min=1), assign=assign)


# Hosts do not see which compressor runs. These recipes cover what they can see: features that are kept, dropped with
# equal or different counts per video, and merged.
KEEPING: Callable[[], Any] = functools.partial(framefold.build, "identity")
DROPPING: dict[str, Callable[[], Any]] = {
    "equal counts": functools.partial(framefold.build, "uniform", 0.25),
    "different counts": AboveMean,
}
COMPRESSING: dict[str, Callable[[], Any]] = {**DROPPING, "merging": ScaledMerge}


@functools.cache
def limit_threads_and_logs() -> None:
    """Use one thread, since tiny models gain nothing from more, and hide warnings about padding on the right."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()


def build(name: str, attention: str = "sdpa", **arguments: Any) -> Host:
    """Build a tiny host with random weights."""
    limit_threads_and_logs()
    return Host(name, HOSTS[name], HOSTS[name].build(attention, **arguments))


def perturb(compressor: Any) -> Any:
    """Move the parameters away from their initial values, in place."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in compressor.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return compressor
