"""Encoding of shards of videos to shards of features.

If the host needs torchvision, import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from framefold.data.shards.encoded import pack_encoded
from framefold.data.shards.index import Shard
from framefold.data.shards.sample import check_files, read_metadata, unpack_video
from framefold.data.shards.sources import error_reason, read_samples
from framefold.data.shards.writer import PackedSample
from framefold.errors import DataError, InputError, PromptError
from framefold.progress import progress_bar

from .host import Host
from .load import load_host
from .locate import HostFolder


class FeatureEncoder:
    """Encodes the videos of a shard to the samples of a shard of features.

    Args:
        source: the host; it is loaded with the first shard.
        settings: of the features, see :func:`~framefold.training.frozen_host.write_features.features`.
        device: to encode on.
        allowed: number of videos that may be skipped.
        vision_chunk: number of frames that the vision encoder takes at once; None for all.
    """

    def __init__(
        self,
        source: HostFolder,
        settings: dict[str, Any],
        device: str,
        allowed: float,
        vision_chunk: int | None = None,
    ) -> None:
        self.vision_chunk = vision_chunk
        self.source, self.settings, self.device, self.allowed = source, settings, device, allowed
        self.skipped = 0

    @cached_property
    def host(self) -> Host:
        """The host, on its device."""
        dtype, device = self.settings["dtype"], torch.device(self.device)
        host = load_host(self.source, dtype=dtype, vision_chunk=self.vision_chunk, device=device)
        host.model.to(self.device)
        return host

    def __call__(self, shard: Shard) -> Iterator[PackedSample]:
        """Encode the samples of a shard.

        Raises:
            DataError: More videos had to be skipped than are allowed.
        """
        errors: list[Exception] = []

        def collect(error: Exception) -> bool:
            errors.append(error)
            return True

        count = 0
        files = read_samples(shard.path, collect)
        bar = progress_bar(files, shard.path, total=shard.samples, unit="video", leave=False)
        for sample in bar:
            count += 1
            try:
                yield self._encode(sample["__key__"], sample)
            except (DataError, InputError, PromptError) as error:
                self._skip(bar, 1, str(error))
        if count < shard.samples:
            self._skip(bar, shard.samples - count, f"{shard.path} ends early{error_reason(errors)}")

    def _encode(self, key: str, files: dict[str, Any]) -> PackedSample:
        check_files(key, files, "mp4")
        metadata = read_metadata(key, files["json"])
        sample = unpack_video(key, metadata, files["mp4"], self.settings["frames"])
        encoded = self.host.encode_sample(sample, self.settings["attention"])
        dtype = str(self.host.model.dtype).removeprefix("torch.")
        encoded = replace(encoded, host=self.settings["host"] | {"dtype": dtype})
        metadata = metadata | {"made": {name: value for name, value in self.settings.items() if name != "host"}}
        if sample.frame_numbers is not None:
            metadata["shown"] = list(sample.frame_numbers)  # indices into the frames of the stored video
        packed = pack_encoded(encoded, metadata, getattr(torch, self.settings["store"]))
        return PackedSample(key, packed, encoded.length)

    def _skip(self, bar: Any, count: int, reason: str) -> None:
        self.skipped += count
        bar.write(f"skipped: {reason}", file=sys.stderr)
        if self.skipped > self.allowed:
            raise DataError(f"{self.skipped} videos cannot be encoded, more than max_damaged allows (last: {reason})")
