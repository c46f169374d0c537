"""Held-out videos as encoded by a host, on disk: encoded once for all results, processes and later runs.

Each video is a safetensors file and a JSON file, which is written second and holds the SHA-256 of the first. A video
whose digest does not match is encoded again. Several processes can fill a cache together.

Dimensions: R questions about a video, N visual tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

from framefold.data.evidence import evidence_mask
from framefold.data.question import Question
from framefold.data.shards.encoded import COLUMN, DEEPSTACK, EncodedSample
from framefold.data.shards.sample import VideoSample
from framefold.errors import DataError, InputError, PromptError
from framefold.evaluation.rows.detail import reduce_detail
from framefold.files import bytes_digest, file_digest, remove_leftovers, replace_file, text_digest, write_json
from framefold.training.frozen_host.host import Host

from .config import MOST_DAMAGED
from .heldout import HeldOutSource, HeldOutVideo
from .work_queue import run_shared_tasks

FORMAT = 1

GROUP = 8  # videos that a process encodes under one lock


@dataclass(frozen=True, eq=False)
class CachedVideo:
    """A video as encoded by the host, on the CPU.

    Attributes:
        sample: encoded video with its questions.
        number: see :class:`~framefold.evaluation.ablation.heldout.HeldOutVideo`.
        cluster: see :class:`~framefold.evaluation.ablation.heldout.HeldOutVideo`.
        evidence: (R, N) bool, the visual tokens with the evidence of each question.
        events: (N,) bool, the visual tokens with an event that can be asked about; None if unknown.
    """

    sample: EncodedSample
    number: int
    cluster: int
    evidence: Tensor
    events: Tensor | None = None


class FeatureCache:
    """The encoded videos of a source, filled by one or several processes.

    Args:
        folder: folder of all caches; this one is a subfolder named by a digest.
        host: host that encodes.
        source: source of the videos.
        key: everything that the features depend on, besides the videos.
        attention: also store the attention that tokens received in the vision encoder.
        max_damaged: fraction of the videos that may be damaged.
        pixels: height and width of the frames whose detail the host sees, for each (H, W) of the token grid; None for
            the frames as they are.
    """

    def __init__(
        self,
        folder: Path,
        host: Host,
        source: HeldOutSource,
        key: dict[str, Any],
        attention: bool = False,
        max_damaged: float = MOST_DAMAGED,
        pixels: Mapping[tuple[int, int], tuple[int, int]] | None = None,
    ) -> None:
        data = {name: value for name, value in source.describe().items() if name not in ("videos", "shards")}
        self.key = {"format": FORMAT, **key, "data": data, "attention": attention}
        if pixels is not None:
            sizes = [[*size, *smaller] for size, smaller in sorted(pixels.items())]
            self.key["pixels"] = sizes if len(sizes) > 1 else sizes[0][2:]
        self._common = (folder, host, source, key, attention, max_damaged)
        digest = text_digest(json.dumps(self.key, sort_keys=True))
        self.folder, self.host, self.source, self.attention = folder / digest[:20], host, source, attention
        self.max_damaged, self.pixels = max_damaged, pixels
        self._full_size: FeatureCache | None = None
        self._complete: dict[int, bool] = {}  # videos that this process has checked; False: damaged in the source
        self._ahead, self._next = iter(()), len(source)  # type: Iterator[Callable[[], HeldOutVideo]], int

    def with_detail(self, pixels: Mapping[tuple[int, int], tuple[int, int]]) -> FeatureCache:
        """Return the cache of the same videos with the detail of smaller frames; this one must be full.

        Args:
            pixels: height and width of a smaller frame, for each (H, W) of the token grid.
        """
        smaller = FeatureCache(*self._common, pixels)
        smaller._full_size = self
        return smaller

    def fill(self, on_progress: Callable[[int], None] = lambda done: None) -> None:
        """Encode the videos that are missing; return when all are there.

        Args:
            on_progress: called with the number of videos that are there.

        Raises:
            DataError: too many videos are damaged.
            OSError: the disk is full or not writable; finished videos are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "key.json", self.key)
        groups = [range(first, min(first + GROUP, len(self.source))) for first in range(0, len(self.source), GROUP)]
        run_shared_tasks(
            groups,
            lambda group: self.folder / ".locks" / f"{group.start:08d}",
            lambda group: all(self._is_complete(number) for number in group),
            self._encode,
            lambda done: on_progress(sum(map(len, groups[:done]))),
        )
        if len(self.damaged) > self.max_damaged * len(self.source) or not len(self):
            first = next(iter(self.damaged.values()))
            raise DataError(
                f"{len(self.damaged)} of {len(self.source)} videos are damaged, more than --max_damaged "
                f"{self.max_damaged:g} allows; the first: {first}"
            )

    @cached_property
    def damaged(self) -> dict[int, str]:
        """Numbers of the videos that could not be read, with the reasons; valid once the cache is full."""
        return {number: self._note(number)["damaged"] for number, complete in self._complete.items() if not complete}

    def __len__(self) -> int:
        """Number of undamaged videos; valid once the cache is full."""
        return len(self.source) - len(self.damaged)

    @property
    def bytes(self) -> int:
        """Size of the features on disk."""
        return sum(self._file(number).stat().st_size for number, complete in self._complete.items() if complete)

    def read(self) -> Iterator[CachedVideo]:
        """Read the undamaged videos from disk, in order.

        Raises:
            DataError: a file is missing or was changed.
        """
        for number in range(len(self.source)):
            if number in self.damaged:
                continue
            try:
                yield _unpack(self._note(number), self._file(number).read_bytes())
            except (OSError, ValueError, KeyError) as error:
                raise DataError(f"{self._file(number)} is damaged ({error}): run the same command again") from error

    def grids(self) -> Counter[tuple[int, int, int]]:
        """Count the undamaged videos by their (T, H, W) grid; valid once the cache is full."""
        return Counter(self._grid(number) for number in range(len(self.source)) if number not in self.damaged)

    def _grid(self, number: int) -> tuple[int, int, int]:
        with safe_open(self._file(number), "pt") as file:
            t, h, w = file.get_slice("features").get_shape()[:3]
        return t, h, w

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.safetensors"

    def _note(self, number: int) -> dict[str, Any]:
        return json.loads(self._file(number).with_suffix(".json").read_text())

    def _is_complete(self, number: int) -> bool:
        """Whether a video is stored intact or known to be damaged; the first check reads the whole file."""
        if number not in self._complete:
            try:
                note = self._note(number)
                if "damaged" in note:
                    self._complete[number] = False
                elif file_digest(self._file(number)) == note["sha256"]:
                    self._complete[number] = True
            except (OSError, ValueError, KeyError, TypeError):
                return False
        return number in self._complete

    def _encode(self, group: range) -> None:
        for number, create in zip(group, self._take(group), strict=True):
            if self._is_complete(number):
                continue
            remove_leftovers(self._file(number))
            try:
                note, content = _pack(self._encode_video(create()))
            except (DataError, InputError, PromptError) as error:
                note, content = {"damaged": str(error)}, b""
            if content:
                replace_file(self._file(number), partial(_write, content))
            write_json(self._file(number).with_suffix(".json"), note, indent=None)
            self._complete[number] = bool(content)

    def _take(self, group: range) -> list[Callable[[], HeldOutVideo]]:
        """Read on in the source up to a group; start again at the first video if the group has been passed."""
        if group.start < self._next:
            self._ahead, self._next = self.source.videos(), 0
        videos = list(islice(self._ahead, group.start - self._next, group.stop - self._next))
        self._next = group.stop
        return videos

    @torch.no_grad()
    def _encode_video(self, video: HeldOutVideo) -> CachedVideo:
        sample = video.sample
        if self.pixels is not None:
            if not isinstance(sample, VideoSample):
                raise DataError(f"{sample.key} contains features, from which no smaller frames can be made")
            sample = replace(sample, frames=reduce_detail(sample.frames, self._smaller_pixels(video.number)))
        encoded = self.host.encode_sample(sample, self.attention)
        t, h, w = encoded.features.shape[:3]
        grid = (t, h, w)
        masks = [torch.from_numpy(evidence_mask(q.evidence, grid).reshape(-1)) for q in encoded.questions]
        events = None
        if video.events:
            events = masks.pop()
            fields = {name: getattr(encoded, name)[:-1] for name in ("questions", "prompts", "replies")}
            encoded = replace(encoded, **fields)
        encoded = replace(encoded, host=self._host_record)
        return CachedVideo(encoded, video.number, video.cluster, torch.stack(masks), events)

    def _smaller_pixels(self, number: int) -> tuple[int, int]:
        assert self.pixels is not None and self._full_size is not None
        if number in self._full_size.damaged:
            raise DataError(self._full_size.damaged[number])
        return self.pixels[self._full_size._grid(number)[1:]]

    @cached_property
    def _host_record(self) -> dict[str, Any]:
        return self.host.source.base_model(self.host.width) if self.host.source is not None else {}


def _write(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def _pack(video: CachedVideo) -> tuple[dict[str, Any], bytes]:
    """Return the contents of the two files of a video."""
    sample = video.sample
    tensors = sample.tensors() | {"evidence": video.evidence}
    if video.events is not None:
        tensors["events"] = video.events
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    note = {
        "sha256": bytes_digest([content]),
        "number": video.number,
        "draw": video.cluster,
        "key": sample.key,
        "start": sample.start,
        "host": sample.host,
        "questions": [[q.type, q.text, q.answer, list(q.choices)] for q in sample.questions],
        "prompts": sample.prompts,
        "replies": sample.replies,
    }
    return note, content


def _unpack(note: dict[str, Any], content: bytes) -> CachedVideo:
    tensors = load(content)
    layers = sum(name.startswith(DEEPSTACK) for name in tensors)
    sample = EncodedSample(
        note["key"],
        tuple(Question(kind, text, answer, tuple(choices), ()) for kind, text, answer, choices in note["questions"]),
        tuple(map(tuple, note["prompts"])),
        tuple(map(tuple, note["replies"])),
        note["start"],
        **{name: tensors[name] for name in ("features", "extra", "on_grid", "times")},
        columns={name.removeprefix(COLUMN): t.long() for name, t in tensors.items() if name.startswith(COLUMN)},
        positions=tensors["positions"].long(),
        deepstack=tuple(tensors[f"{DEEPSTACK}{layer}"] for layer in range(layers)),
        attention=tensors.get("attention"),
        host=note["host"],
    )
    return CachedVideo(sample, note["number"], note["draw"], tensors["evidence"], tensors.get("events"))
