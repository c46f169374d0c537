"""Videos of a shard -> features of a shard. Import this after torchvision has been found, if the host needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from tqdm import tqdm
from webdataset.tariterators import tarfile_samples

from framefold.data.shards.encoded import pack_encoded
from framefold.data.shards.index import Shard
from framefold.data.shards.sample import read_notes, unpack_video
from framefold.data.shards.sources import opened, reason
from framefold.data.shards.writer import Packed
from framefold.errors import DataError, InputError, PromptError

from .host import Host
from .load import load_host
from .locate import FoundHost


class Encoder:
    """Makes the samples of a shard of features out of a shard of videos.

    Args:
        found: the host, which is loaded when the first shard is begun.
        settings: of the features, see :func:`~framefold.training.frozen_host.write_features.features`.
        device: to encode on.
        allowed: videos that may be left out.
    """

    def __init__(self, found: FoundHost, settings: dict[str, Any], device: str, allowed: float) -> None:
        self.found, self.settings, self.device, self.allowed = found, settings, device, allowed
        self.lost = 0

    @cached_property
    def host(self) -> Host:
        """On its device."""
        host = load_host(self.found, dtype=self.settings["dtype"])
        host.model.to(self.device)
        return host

    def __call__(self, shard: Shard) -> Iterator[Packed]:
        """The samples of a shard.

        Raises:
            DataError: more videos had to be left out than are allowed.
        """
        errors: list[Exception] = []

        def note(error: Exception) -> bool:
            errors.append(error)
            return True

        count = 0
        raws = tarfile_samples([{"url": opened(shard.path)}], handler=note)
        for raw in tqdm(raws, desc=shard.path, total=shard.samples, unit="video", leave=False, position=1):
            count += 1
            try:
                yield self._encode(raw["__key__"], raw)
            except (DataError, InputError, PromptError) as error:
                self._leave_out(1, str(error))
        if count < shard.samples:
            self._leave_out(shard.samples - count, f"{shard.path} ends early{reason(errors)}")

    def _encode(self, key: str, files: dict[str, Any]) -> Packed:
        if missing := {"mp4", "json"} - files.keys():
            raise DataError(f"{key} has no {' and no '.join(sorted(missing))}")
        notes = read_notes(key, files["json"])
        sample = unpack_video(key, notes, files["mp4"], self.settings["frames"])
        own = {"dtype": str(self.host.model.dtype).removeprefix("torch.")}
        seen = replace(self.host.see(sample, self.settings["attention"]), host=self.settings["host"] | own)
        told = notes | {"made": {name: value for name, value in self.settings.items() if name != "host"}}
        if sample.numbers is not None:
            told["shown"] = list(sample.numbers)  # of the frames of the stored video
        return Packed(key, pack_encoded(seen, told, getattr(torch, self.settings["store"])), seen.length)

    def _leave_out(self, count: int, why: str) -> None:
        self.lost += count
        tqdm.write(f"left out: {why}", file=sys.stderr)
        if self.lost > self.allowed:
            raise DataError(f"{self.lost} videos cannot be encoded, more than max_damaged allows (last: {why})")
