"""The verb ``framefold shards synth``: synthetic videos as webdataset shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import VIDEOS
from framefold.data.shards.writer import PackedSample, ShardFolder
from framefold.errors import DataError
from framefold.progress import progress_bar

from .difficulty import Difficulty, resolve_difficulty
from .recipe import Recipe, length_range, pack_sample

Span = tuple[Recipe, range, int]  # recipe, numbers of the videos, and crf


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
        videos: number of videos.
        frames: shortest and longest video; one number for a single length.
        seed: seed of the generator.
        split: train, val or test; splits never share a video.
        difficulty: easy, hard, crowded, or settings of framefold.data.synthetic.difficulty.Difficulty.
        style: normal, held_out for other glyphs and textures, or natural for photographs as backgrounds.
        shard_size: videos per shard.
        crf: H.264 quality, 1 (best) to 51; 0 is lossless.
        workers: processes that write shards at the same time.

    Raises:
        DataError: a setting is out of range, or the folder contains something else.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    recipe = Recipe(length_range(frames), seed, split, difficulty, style)
    if videos < 1 or shard_size < 1 or workers < 1:
        raise DataError(f"videos, shard_size and workers must be positive, got {videos}, {shard_size}, {workers}")
    if not 0 <= crf <= 51:
        raise DataError(f"crf must be between 0 (lossless) and 51, not {crf}")
    resolved = {"frames": list(recipe.frames), "difficulty": resolve_difficulty(difficulty).to_dict()}
    settings = asdict(recipe) | resolved | {"videos": videos, "shard_size": shard_size, "crf": crf}
    folder = ShardFolder[Span](out, VIDEOS, SCHEMA_VERSION, settings, "framefold shards synth")
    if folder.complete:
        print(f"{out} is complete: {videos} videos in {-(-videos // shard_size)} shards")
        return
    spans = [range(first, min(first + shard_size, videos)) for first in range(0, videos, shard_size)]
    if not folder.write([(recipe, span, crf) for span in spans], _videos, workers):
        print(f"other processes are still writing to {out}; the last one to finish writes the index")


def _videos(span: Span) -> Iterator[PackedSample]:
    recipe, numbers, crf = span
    for index in progress_bar(numbers, "its videos", unit="video", leave=False):
        video = recipe.video(index)
        yield PackedSample(f"{recipe.split}-{recipe.seed}-{index:08d}", pack_sample(video, crf), len(video.frames))
