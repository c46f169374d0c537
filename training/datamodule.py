"""Training and validation data: shards, or synthetic videos generated during training.

The signature of :class:`VideoData` is the ``data:`` section of a configuration.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from framefold.data.loading.loader import ResumableLoader, SampleStream
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards.held_out import hold_out
from framefold.data.shards.index import Index
from framefold.data.shards.location import is_remote
from framefold.data.shards.sources import resolve_shards
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe, length_range
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import DataError
from framefold.training.frozen_host.data_check import DataSources


class VideoData(pl.LightningDataModule):
    """Batches of videos of different lengths with their questions; the order of batches is exactly resumable.

    Training videos come from ``shards``, or are generated if none are given. Validation videos come from
    ``val_shards``, or are held out of ``shards`` by ``val_share``. Otherwise they are generated if the training videos
    are synthetic, and there is no validation if they are not.

    Args:
        shards: training videos or features: a folder of 'framefold shards'; or tar files, globs, brace lists,
            http(s):// URLs and "pipe:" commands, joined by "::".
        val_shards: the same for validation.
        val_share: instead of val_shards: fraction of the samples in ``shards`` to hold out for validation, by their
            keys.
        videos: number of synthetic videos per training epoch.
        val_videos: number of synthetic validation videos.
        frames: shortest and longest synthetic training video, or one length.
        val_frames: the same for validation.
        difficulty: of synthetic videos: easy, hard, crowded, or settings of data.synthetic.difficulty.Difficulty.
        style: of synthetic training videos: normal, held_out glyphs and textures, or natural backgrounds.
        seed: of synthetic videos and of shuffling.
        val_seed: of synthetic validation videos, which belong to another split.
        batch_size: videos in a batch of one rank.
        val_batch_size: the same for validation.
        workers: number of processes that load batches ahead; 0 loads in the training process.
        shuffle_buffer: number of samples among which shards are shuffled; by default 256 videos, or the features of 16.
        max_damaged: fraction of damaged samples above which training ends with an error.
        index: file or URL of the index of the training shards, if it is not in their folder.
        val_index: the same for validation.
        max_tokens: instead of batch_size: maximum number of visual tokens in a training batch of one rank, with all
            videos padded to the longest.
        tokens_per_frame: number of tokens that the host makes of a frame; required with max_tokens for shards of
            videos.
        lanes: number of parts of an epoch that are read in parallel, each of which fills its part of every global
            batch; by default one per rank. Runs with equal lanes and global batches see the same batches on any number
            of ranks.
        timeout: seconds to wait for a batch from a worker before training ends with an error.

    Raises:
        DataError: A folder holds no shards, or a setting is out of range.
    """

    def __init__(
        self,
        shards: str | None = None,
        val_shards: str | None = None,
        videos: int = 1024,
        val_videos: int = 64,
        frames: list[int] = [32, 64],  # noqa: B006 (the signature is the configuration)
        val_frames: list[int] = [64],  # noqa: B006
        difficulty: str | Difficulty = "easy",
        style: str = "normal",
        seed: int = 0,
        val_seed: int = 0,
        batch_size: int = 8,
        val_batch_size: int = 8,
        workers: int = 0,
        shuffle_buffer: int | None = None,
        max_damaged: float = 0.05,
        index: str | None = None,
        val_index: str | None = None,
        max_tokens: int | None = None,
        tokens_per_frame: int | None = None,
        lanes: int | None = None,
        timeout: float = 600,
        val_share: float | None = None,
    ) -> None:
        super().__init__()
        if max_tokens is not None and (shards is None or max_tokens < 1):
            raise DataError("max_tokens must be positive and requires shards; for synthetic videos set batch_size")
        self.train_options: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "lanes": lanes}
        self.val_options: dict[str, Any] = {"batch_size": val_batch_size}
        self.shards = None if shards is None else resolve_shards(shards, index)
        self.val_shards = None if val_shards is None else resolve_shards(val_shards, val_index)
        if val_share is not None:
            if self.shards is None or val_shards is not None:
                raise DataError("data.val_share holds out samples of data.shards: give these, and no data.val_shards")
            self.shards, self.val_shards = hold_out(self.shards, val_share)
        self.val_share = val_share
        self.workers, self.timeout = workers, timeout
        self.packing: dict[str, Any] = {"max_tokens": max_tokens, "tokens_per_frame": tokens_per_frame}
        self.reading: dict[str, Any] = {"buffer": shuffle_buffer, "max_damaged": max_damaged}
        self.recipe = Recipe(length_range(frames), seed, "train", difficulty, style)
        self.val_recipe = Recipe(length_range(val_frames), val_seed, "val", difficulty, style)
        self.videos, self.val_videos = videos, val_videos
        self.repeats_epoch = False  # train on the batches of the first epoch in every epoch (trainer.overfit_batches)
        self._train_loader: ResumableLoader | None = None  # of the current fit
        self.train_stream(lanes=None), self.val_stream()  # raises for missing data before any work is done

    def train_stream(self, **where: Any) -> SampleStream:
        """Return the stream of training batches.

        Args:
            where: rank, world and readers, see :class:`~framefold.data.loading.loader.SampleStream`.
        """
        settings = {**self.train_options, **where}
        if self.shards is None:
            return SyntheticStream(self.recipe, self.videos, **settings)
        return ShardStream(self.shards, **settings, **self.reading, **self.packing)

    def val_stream(self, **where: Any) -> SampleStream:
        """Return the stream of validation batches, which is the same in each epoch."""
        settings = {**self.val_options, **where}
        if self.val_shards is None:
            return SyntheticStream(self.val_recipe, self.val_videos, fresh=False, **settings)
        return ShardStream(self.val_shards, shuffle=False, **settings, **self.reading)

    def setup(self, stage: str) -> None:
        """Forget the loader of an earlier fit."""
        self._train_loader = None

    def train_dataloader(self) -> ResumableLoader:
        """Return a loader with a state: checkpoints hold the number of batches that it has delivered.

        A loader that replaces another one during a fit continues after its epoch.
        """
        stream = self.train_stream(**self._where())
        loader = ResumableLoader(stream, self.workers, restart=self.repeats_epoch, timeout=self.timeout)
        if self.trainer is not None:
            if self._train_loader is not None:
                loader.continue_from(self._train_loader)
            self._train_loader = loader
        return loader

    @property
    def validates(self) -> bool:
        """Whether there are validation videos: the user's own, or synthetic ones for synthetic training videos."""
        return self.val_shards is not None or self.shards is None or self.shards.is_synthetic

    @property
    def description(self) -> str:
        """What is trained and validated on, for the first line of a run."""
        videos = f"{self.videos} synthetic videos an epoch"
        training = videos if self.shards is None else f"{self.shards.samples} samples of {_name(self.shards)}"
        if not self.validates:
            return f"{training}; no validation (data.val_share or data.val_shards would select samples for it)"
        if self.val_shards is None:
            return f"{training}; validation: {self.val_videos} synthetic videos"
        samples = f"validation: {self.val_shards.samples} samples"
        if self.val_share is not None:
            return f"{training}; {samples} held out of them by key (data.val_share {self.val_share:g})"
        return f"{training}; {samples} of {_name(self.val_shards)}"

    def val_dataloader(self) -> ResumableLoader | list[ResumableLoader]:
        """Return a loader that starts at the first batch in each epoch; an empty list if there is no validation."""
        if not self.validates:
            return []
        return ResumableLoader(self.val_stream(**self._where()), self.workers, restart=True, timeout=self.timeout)

    def _where(self) -> dict[str, int]:
        trainer, readers = self.trainer, {"readers": max(1, self.workers)}
        return readers if trainer is None else {"rank": trainer.global_rank, "world": trainer.world_size, **readers}


def _name(index: Index) -> str:
    """Return the name of shards without what may be a key in a URL or command."""
    return "remote shards" if is_remote(index.source) else index.source


def data_sources(trainer: Any, stage: str) -> DataSources:
    """Return the data that a stage reads from :class:`VideoData`; empty for other data modules."""
    data = trainer.datamodule
    if not hasattr(data, "val_shards"):
        return []
    validates = (stage != "fit" or trainer.limit_val_batches != 0) and data.validates
    return ([data.shards] if stage == "fit" else []) + ([data.val_shards] if validates else [])
