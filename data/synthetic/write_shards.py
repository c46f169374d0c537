"""The verb ``framefold shards synth``: webdataset shards of synthetic videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import VIDEOS
from framefold.data.shards.writer import Packed, ShardFolder
from framefold.errors import DataError

from .difficulty import Difficulty, difficulty_of
from .recipe import Recipe, length_range, pack_sample

Span = tuple[Recipe, range, int]  # videos of a recipe, and the quality they are stored in


def synth(
    out: str,
    videos: int = 256,
    frames: list[int] = [32, 64],  # noqa: B006 (the signature is the command line)
    seed: int = 0,
    split: str = "train",
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    shard_size: int = 64,
    crf: int = 18,
    workers: int = 1,
) -> None:
    """Write synthetic long videos with questions as webdataset shards.

    Args:
        out: folder for the shards and their index.
        videos: how many.
        frames: shortest and longest video; one number for a single length.
        seed: another seed gives other videos.
        split: train, val or test; videos of different splits are never the same.
        difficulty: easy, hard, or settings of data.difficulty.Difficulty.
        style: normal, or held_out for other glyphs and textures.
        shard_size: videos per shard.
        crf: H.264 quality, 1 (best) to 51; 0 stores the frames without loss.
        workers: processes that write shards at the same time.

    Raises:
        DataError: a setting out of range, or a folder that holds something else.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    recipe = Recipe(length_range(frames), seed, split, difficulty, style)
    if videos < 1 or shard_size < 1 or workers < 1:
        raise DataError(f"videos, shard_size and workers must be positive, got {videos}, {shard_size}, {workers}")
    if not 0 <= crf <= 51:
        raise DataError(f"crf must be between 0 (lossless) and 51, not {crf}")
    plain = {"frames": list(recipe.frames), "difficulty": difficulty_of(difficulty).plain()}
    settings = asdict(recipe) | plain | {"videos": videos, "shard_size": shard_size, "crf": crf}
    folder = ShardFolder[Span](out, VIDEOS, SCHEMA_VERSION, settings, "framefold shards synth")
    if folder.complete:
        print(f"{out} is complete: {videos} videos in {-(-videos // shard_size)} shards")
        return
    spans = [range(first, min(first + shard_size, videos)) for first in range(0, videos, shard_size)]
    if not folder.write([(recipe, span, crf) for span in spans], _videos, workers):
        print(f"other processes are still writing to {out}; the last one writes its index")


def _videos(span: Span) -> Iterator[Packed]:
    recipe, numbers, crf = span
    for index in numbers:
        video = recipe.video(index)
        yield Packed(f"{recipe.split}-{recipe.seed}-{index:08d}", pack_sample(video, crf), len(video.frames))
