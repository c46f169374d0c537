"""Where videos come from: shards, or synthetic ones made on the fly. The ``data:`` section of a configuration."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from framefold.data.loading.loader import ResumableLoader, Stream
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards.sources import resolve_shards
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe, length_range
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import DataError
from framefold.training.frozen_host.data_check import Sets


class VideoData(pl.LightningDataModule):
    """Batches of videos with questions, of different lengths; exact to resume.

    Training videos are read from ``shards`` or else made on the fly, and so are validation videos from ``val_shards``.

    Args:
        shards: training videos or features: a folder of 'framefold shards'; or tar files, globs, brace lists, http(s)://
            URLs and "pipe:" commands, several of them joined by "::". val_shards: the same for validation.
        index: file or URL of the index of the training shards, where none is beside them. val_index: for validation.
        videos: synthetic videos that make an epoch of training. val_videos: the same for validation.
        frames: shortest and longest synthetic training video, or one length. val_frames: the same for validation.
        difficulty: of synthetic videos: easy, hard, or settings of data.difficulty.Difficulty.
        style: of synthetic training videos: normal, or held_out glyphs and textures.
        seed: of synthetic videos and of shuffling. val_seed: of synthetic validation videos, of another split.
        batch_size: videos in a batch of one rank. val_batch_size: the same for validation.
        max_tokens: in place of batch_size: visual tokens (of all videos, padded to the longest) in a training batch of
            one rank. tokens_per_frame: that the host makes of a frame; needed with max_tokens for shards of videos.
        lanes: parts of an epoch that are read at the same time, each of which gives its part of every global batch;
            None: one a rank. With equal lanes and global batches, other numbers of ranks see the same batches.
        workers: processes that read ahead; 0 reads in the training process.
        timeout: seconds to wait for a batch from a worker before training ends with an error.
        shuffle_buffer: samples among which shards are shuffled; None: 256 videos, or 16 videos' features.
        max_damaged: share of damaged samples above which training ends with an error.

    Raises:
        DataError: a folder without shards, or a setting out of range.
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
    ) -> None:
        super().__init__()
        if max_tokens is not None and (shards is None or max_tokens < 1):
            raise DataError("max_tokens must be positive, and is for shards: videos made on the fly take a batch_size")
        self.train_set: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "lanes": lanes}
        self.val_set: dict[str, Any] = {"batch_size": val_batch_size}
        self.shards = None if shards is None else resolve_shards(shards, index)
        self.val_shards = None if val_shards is None else resolve_shards(val_shards, val_index)
        self.workers, self.timeout = workers, timeout
        self.packing: dict[str, Any] = {"max_tokens": max_tokens, "tokens_per_frame": tokens_per_frame}
        self.reading: dict[str, Any] = {"buffer": shuffle_buffer, "max_damaged": max_damaged}
        self.recipe = Recipe(length_range(frames), seed, "train", difficulty, style)
        self.val_recipe = Recipe(length_range(val_frames), val_seed, "val", difficulty, style)
        self.videos, self.val_videos = videos, val_videos
        self.train_stream(lanes=None), self.val_stream()  # what is missing is found before any work is done

    def train_stream(self, **where: Any) -> Stream:
        """Stream of training batches; where: rank and world."""
        settings = {**self.train_set, **where}
        if self.shards is None:
            return SyntheticStream(self.recipe, self.videos, **settings)
        return ShardStream(self.shards, **settings, **self.reading, **self.packing)

    def val_stream(self, **where: Any) -> Stream:
        """Stream of validation batches, always the same ones."""
        settings = {**self.val_set, **where}
        if self.val_shards is None:
            return SyntheticStream(self.val_recipe, self.val_videos, fresh=False, **settings)
        return ShardStream(self.val_shards, shuffle=False, **settings, **self.reading)

    def train_dataloader(self) -> ResumableLoader:
        """Loader with a state: checkpoints hold the number of batches that were delivered."""
        return ResumableLoader(self.train_stream(**self._where()), self.workers, timeout=self.timeout)

    def val_dataloader(self) -> ResumableLoader:
        """Loader that always begins at the beginning."""
        return ResumableLoader(self.val_stream(**self._where()), self.workers, same=True, timeout=self.timeout)

    def _where(self) -> dict[str, int]:
        trainer, readers = self.trainer, {"readers": max(1, self.workers)}
        return readers if trainer is None else {"rank": trainer.global_rank, "world": trainer.world_size, **readers}


def sets_of(trainer: Any, stage: str) -> Sets:
    """What a stage of a trainer reads, where it has a data module of ours."""
    data = trainer.datamodule
    if not hasattr(data, "val_shards"):
        return []
    validates = stage != "fit" or trainer.limit_val_batches != 0
    return ([data.shards] if stage == "fit" else []) + ([data.val_shards] if validates else [])
