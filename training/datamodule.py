"""Where videos come from: shards, or synthetic ones made on the fly. The ``data:`` section of a configuration."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from ..data.batches import ResumableLoader, Stream, SyntheticStream
from ..data.difficulty import Difficulty
from ..data.samples import Recipe, length_range
from ..data.stream import ShardStream


class VideoData(pl.LightningDataModule):
    """Batches of videos with questions, of different lengths; exact to resume.

    Training videos are read from ``shards`` or else made on the fly, and so are validation videos from ``val_shards``.

    Args:
        shards: folder of 'framefold shards', for training. val_shards: the same for validation.
        videos: synthetic videos that make an epoch of training. val_videos: the same for validation.
        frames: shortest and longest synthetic training video, or one length. val_frames: the same for validation.
        difficulty: of synthetic videos: easy, hard, or settings of data.difficulty.Difficulty.
        style: of synthetic training videos: normal, or held_out glyphs and textures.
        seed: of synthetic videos and of shuffling. val_seed: of synthetic validation videos, of another split.
        batch_size: videos in a batch of one rank. val_batch_size: the same for validation.
        workers: processes that read ahead; 0 reads in the training process.
        shuffle_buffer: samples among which shards are shuffled.
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
        shuffle_buffer: int = 256,
        max_damaged: float = 0.05,
    ) -> None:
        super().__init__()
        self.train_set: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
        self.val_set: dict[str, Any] = {"batch_size": val_batch_size}
        self.shards, self.val_shards, self.workers = shards, val_shards, workers
        self.reading: dict[str, Any] = {"buffer": shuffle_buffer, "max_damaged": max_damaged}
        self.recipe = Recipe(length_range(frames), seed, "train", difficulty, style)
        self.val_recipe = Recipe(length_range(val_frames), val_seed, "val", difficulty, style)
        self.videos, self.val_videos = videos, val_videos
        self.train_stream(), self.val_stream()  # what is missing is found before any work is done

    def train_stream(self, **where: int) -> Stream:
        """Stream of training batches; where: rank and world."""
        settings = {**self.train_set, **where}
        if self.shards is None:
            return SyntheticStream(self.recipe, self.videos, **settings)
        return ShardStream(self.shards, **settings, **self.reading)

    def val_stream(self, **where: int) -> Stream:
        """Stream of validation batches, always the same ones."""
        settings = {**self.val_set, **where}
        if self.val_shards is None:
            return SyntheticStream(self.val_recipe, self.val_videos, fresh=False, **settings)
        return ShardStream(self.val_shards, shuffle=False, **settings, **self.reading)

    def train_dataloader(self) -> ResumableLoader:
        """Loader with a state: checkpoints hold the number of batches that were delivered."""
        return ResumableLoader(self.train_stream(**self._where()), self.workers)

    def val_dataloader(self) -> ResumableLoader:
        """Loader that always begins at the beginning."""
        return ResumableLoader(self.val_stream(**self._where()), self.workers, same=True)

    def _where(self) -> dict[str, int]:
        trainer = self.trainer
        return {"rank": trainer.global_rank, "world": trainer.world_size} if trainer is not None else {}
