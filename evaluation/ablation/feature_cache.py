"""What a host made of held-out videos, on disk: encoded once, for every cell, every process and every later run.

A video is a safetensors file, and beside it a JSON file that is written when the other is whole and holds its SHA-256.
A file that does not fit its digest is made again. Several processes fill a cache together.

Dimensions: R questions about a video, N visual tokens.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from framefold.data.evidence import evidence_mask
from framefold.data.question import Question
from framefold.data.shards.encoded import COLUMN, DEEPSTACK, EncodedSample
from framefold.errors import DataError
from framefold.files import replace_file
from framefold.training.frozen_host.host import Host

from .heldout import MOST_DAMAGED, HeldOutVideo, Source
from .work_queue import remove_leftovers, work_off

FORMAT = 1

TOGETHER = 8  # videos that a process encodes under one lock


@dataclass(frozen=True, eq=False)
class CachedVideo:
    """A video as the host saw it, on the CPU.

    Attributes:
        sample: the host's encoding of it.
        number, draw: see :class:`~framefold.evaluation.ablation.heldout.HeldOutVideo`.
        evidence: (R, N) bool, the visual tokens that hold the evidence of each question.
        events: (N,) bool, those at which something happens that can be asked about; None: nobody knows.
    """

    sample: EncodedSample
    number: int
    draw: int
    evidence: Tensor
    events: Tensor | None = None


class FeatureCache:
    """The encoded videos of a source, filled by one or several processes.

    Args:
        folder: for all caches. host: that encodes; it need not be there yet. source: of the videos.
        key: what the features depend on, beside the videos. attention: keep the attention that tokens received in the
            vision encoder.
    """

    def __init__(self, folder: Path, host: Host, source: Source, key: dict[str, Any], attention: bool = False) -> None:
        data = {name: value for name, value in source.describe().items() if name not in ("videos", "shards")}
        self.key = {"format": FORMAT, **key, "data": data, "attention": attention}
        digest = hashlib.sha256(json.dumps(self.key, sort_keys=True).encode()).hexdigest()
        self.folder, self.host, self.source, self.attention = folder / digest[:20], host, source, attention
        self._whole: dict[int, bool] = {}  # seen by this process; False: damaged in the source
        self._ahead, self._next = iter(()), len(source)  # type: Iterator[Callable[[], HeldOutVideo]], int

    def fill(self, tick: Callable[[int], None] = lambda done: None) -> None:
        """Encode what is not there yet; returns when all is there.

        Args:
            tick: is called with the number of videos that are there.

        Raises:
            DataError: too many videos are damaged.
            OSError: the disk is full or not writable; finished videos are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.key, indent=1) + "\n"
        replace_file(self.folder / "key.json", lambda beside: beside.write_text(text))
        groups = [
            range(first, min(first + TOGETHER, len(self.source))) for first in range(0, len(self.source), TOGETHER)
        ]
        work_off(
            groups,
            lambda group: self.folder / ".locks" / f"{group.start:08d}",
            lambda group: all(self._is_whole(number) for number in group),
            self._encode,
            lambda done: tick(sum(map(len, groups[:done]))),
        )
        if len(self.damaged) > MOST_DAMAGED * len(self.source):
            first = next(iter(self.damaged.values()))
            raise DataError(f"{len(self.damaged)} of {len(self.source)} videos are damaged; the first: {first}")

    @cached_property
    def damaged(self) -> dict[int, str]:
        """Numbers of the videos that could not be read, and why; known once the cache is full."""
        return {number: self._note(number)["damaged"] for number, whole in self._whole.items() if not whole}

    def __len__(self) -> int:
        """Videos that are whole, once the cache is full."""
        return len(self.source) - len(self.damaged)

    @property
    def bytes(self) -> int:
        """Size of the features on disk."""
        return sum(self._file(number).stat().st_size for number, whole in self._whole.items() if whole)

    def read(self) -> Iterator[CachedVideo]:
        """The videos in their order, from disk.

        Raises:
            DataError: a file has gone, or was changed.
        """
        for number in range(len(self.source)):
            if number in self.damaged:
                continue
            try:
                yield _unpack(self._note(number), self._file(number).read_bytes())
            except (OSError, ValueError, KeyError) as error:
                raise DataError(f"{self._file(number)} is damaged ({error}): run the same call again") from error

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.safetensors"

    def _note(self, number: int) -> dict[str, Any]:
        return json.loads(self._file(number).with_suffix(".json").read_text())

    def _is_whole(self, number: int) -> bool:
        """Whether a video is there, whole, or known to be damaged; it is read for that the first time."""
        if number not in self._whole:
            try:
                note = self._note(number)
                if "damaged" in note:
                    self._whole[number] = False
                elif hashlib.sha256(self._file(number).read_bytes()).hexdigest() == note["sha256"]:
                    self._whole[number] = True
            except (OSError, ValueError, KeyError, TypeError):
                return False
        return number in self._whole

    def _encode(self, group: range) -> None:
        for number, make in zip(group, self._take(group), strict=True):
            if self._is_whole(number):
                continue
            remove_leftovers(self._file(number))
            try:
                note, content = _pack(self._see(make()))
            except DataError as error:
                note, content = {"damaged": str(error)}, None
            if content is not None:
                replace_file(self._file(number), partial(_write, content))
            replace_file(self._file(number).with_suffix(".json"), partial(_write, json.dumps(note).encode()))
            self._whole[number] = content is not None

    def _take(self, group: range) -> list[Callable[[], HeldOutVideo]]:
        """What makes the videos of a group; the source is read on, or from the front again where they lie behind."""
        if group.start < self._next:
            self._ahead, self._next = self.source.videos(), 0
        made = list(islice(self._ahead, group.start - self._next, group.stop - self._next))
        self._next = group.stop
        return made

    @torch.no_grad()
    def _see(self, video: HeldOutVideo) -> CachedVideo:
        seen = self.host.see(video.sample, self.attention)
        t, h, w = seen.features.shape[:3]
        grid = (t, h, w)
        masks = [torch.from_numpy(evidence_mask(one.evidence, grid).reshape(-1)) for one in seen.questions]
        events = None
        if video.events:
            events = masks.pop()
            asked = {name: getattr(seen, name)[:-1] for name in ("questions", "prompts", "replies")}
            seen = replace(seen, **asked)
        return CachedVideo(replace(seen, host=self._made_by), video.number, video.draw, torch.stack(masks), events)

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        return self.host.found.base_model(self.host.width) if self.host.found is not None else {}


def _write(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def _pack(shown: CachedVideo) -> tuple[dict[str, Any], bytes]:
    """What the two files of a video hold."""
    sample = shown.sample
    tensors = sample.tensors() | {"evidence": shown.evidence}
    if shown.events is not None:
        tensors["events"] = shown.events
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    note = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "number": shown.number,
        "draw": shown.draw,
        "key": sample.key,
        "start": sample.start,
        "host": sample.host,
        "questions": [[one.type, one.text, one.answer, list(one.choices)] for one in sample.questions],
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
