"""The verb ``framefold shards splice``: long videos with questions from short annotated clips, as webdataset shards.

The idea is that of FiLA-Video (arXiv 2504.20384), whose data and code are not public; this is an independent
implementation.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import INDEX, STARTED, VIDEOS
from framefold.data.shards.writer import PackedSample, ShardFolder
from framefold.data.splits import SPLITS
from framefold.data.video.codec import encode_video
from framefold.errors import DataError
from framefold.files import text_digest
from framefold.progress import progress_bar

from .annotations import find_annotations, read_annotations
from .clips import Clip, Problems, assign_splits, read_clips, unknown_columns
from .frames import ClipFrameReader
from .metadata import build_metadata
from .plan import ClipPool, VideoPlan
from .probe import ProbeResult, probe_clips
from .questions import ask_about_clips
from .settings import SpliceSettings, as_pair

VERSION = 1  # of the construction of videos; part of the settings


def splice(
    clips: str,
    out: str,
    annotations: str | None = None,
    videos: int = 256,
    minutes: list[float] = [1, 10],  # noqa: B006 (the signature is the command line)
    fps: float = 2.0,
    size: list[int] = [224],  # noqa: B006
    clip_seconds: list[float] = [1, 60],  # noqa: B006
    questions: int = 2,
    seed: int = 0,
    split: str = "train",
    max_damaged: float = 0.05,
    shard_size: int = 32,
    crf: int = 18,
    workers: int = 1,
) -> None:
    """Splice short annotated clips into long videos with questions, and write them as webdataset shards.

    Args:
        clips: folder of mp4, mkv, webm or mov files, with subfolders. data/README.md describes their annotations.
        out: folder for the shards and their index.
        annotations: json, jsonl or csv file; by default the only one directly in the folder of clips.
        videos: number of videos.
        minutes: shortest and longest video; clips are not cut to fit.
        fps: stored frames per second.
        size: height and width of the stored frames; one number for a square. Frames are scaled to fit, with black bars.
        clip_seconds: shortest and longest clip; other clips are left out.
        questions: largest number of questions of each type per video; those in annotations of clips are not limited.
        seed: seed of the random choices.
        split: train, val or test (8, 1 and 1 of 10 clips, by their ids), which never share a clip.
        max_damaged: fraction of the annotations that may be unusable; a warning lists them.
        shard_size: videos per shard.
        crf: H.264 quality, 1 (best) to 51; 0 is lossless.
        workers: processes that probe clips and write shards at the same time.

    Raises:
        DataError: a setting is out of range, too many annotations or clips are unusable, there are too few clips for a
            video, or the folder contains something else.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    height, width = as_pair("size", size)
    lengths = as_pair("minutes", minutes), as_pair("clip_seconds", clip_seconds)
    settings = SpliceSettings(lengths[0], float(fps), (int(height), int(width)), lengths[1], questions, crf)
    _check(videos, seed, split, max_damaged, shard_size, workers)
    folder, target = Path(clips), Path(out)
    if not folder.is_dir():
        raise DataError(f"there is no folder of clips {folder}")
    _check_target(target)
    usable = _usable_clips(folder, annotations, settings, target, split, max_damaged, workers)
    pool = ClipPool(usable, split, *settings.frames, fps)
    plans = pool.plans(seed, videos)
    recorded = {"splice": VERSION, **json.loads(json.dumps(asdict(settings))), "seed": seed, "split": split}
    recorded |= {"videos": videos, "shard_size": shard_size, "clips": _clips_digest(pool.clips)}
    for plan in progress_bar(plans, "questions", unit="video"):
        if not ask_about_clips(plan, build_metadata(plan, settings, recorded), questions):
            raise DataError(f"no question is possible about video {plan.key[2]}: the captions of its clips are similar")
    shards = ShardFolder[_Task](out, VIDEOS, SCHEMA_VERSION, recorded, "framefold shards splice")
    if shards.complete:
        print(f"{out} is complete: {videos} videos in {-(-videos // shard_size)} shards")
        return
    spans = [plans[first : first + shard_size] for first in range(0, videos, shard_size)]
    if not shards.write([_Task(folder, settings, recorded, span) for span in spans], _videos, workers):
        print(f"other processes are still writing to {out}; the last one to finish writes the index")


@dataclass(frozen=True)
class _Task:
    """The videos of one shard.

    Attributes:
        folder: folder of clips.
        settings: settings of all videos.
        recorded: the settings as they are stored with every video.
        plans: the videos.
    """

    folder: Path
    settings: SpliceSettings
    recorded: dict[str, Any]
    plans: list[VideoPlan]


def _videos(task: _Task) -> Iterator[PackedSample]:
    reader = ClipFrameReader(task.folder, task.settings.sampling, task.settings.size)
    for plan in progress_bar(task.plans, "its videos", unit="video", leave=False):
        metadata = build_metadata(plan, task.settings, task.recorded)
        questions = ask_about_clips(plan, metadata, task.settings.questions)
        metadata["questions"] = [asdict(question) for question in questions]
        mp4 = encode_video(reader.concatenate(plan.clips), metadata["times"], task.settings.crf)
        files = {"mp4": mp4, "json": json.dumps(metadata, separators=(",", ":")).encode()}
        seed, split, index = plan.key
        yield PackedSample(f"splice-{split}-{seed}-{index:08d}", files, len(metadata["times"]))


def _usable_clips(
    folder: Path,
    annotations: str | None,
    settings: SpliceSettings,
    out: Path,
    split: str,
    max_damaged: float,
    workers: int,
) -> list[Clip]:
    """Probe all clips and return the usable ones of a split; warn about the others."""
    rows = read_annotations(find_annotations(folder, annotations))
    problems = Problems(max_damaged, len(rows))
    unknown = unknown_columns(rows)
    if unknown:
        warnings.warn(f"the columns {', '.join(unknown)} of the annotations are not used", stacklevel=3)
    clips = read_clips(folder, rows, problems)
    problems.check()
    result = probe_clips(folder, clips, settings.sampling, out, workers, problems)
    problems.check()
    if problems.texts:
        lines = "\n  ".join(problems.texts)
        warnings.warn(f"{len(problems.texts)} of {len(rows)} annotations are left out:\n  {lines}", stacklevel=3)
    split_of = assign_splits(clips, result.sources)
    chosen = [clip for clip in result.clips if split_of[clip.id] == split]
    print(_summary(result, chosen, split, settings))
    return chosen


def _summary(result: ProbeResult, chosen: list[Clip], split: str, settings: SpliceSettings) -> str:
    hours = sum(clip.length for clip in chosen) / settings.fps / 3600
    low, high = settings.clip_seconds
    wrong = f", {result.wrong_length} are not {low:g} to {high:g} seconds long" if result.wrong_length else ""
    return f"{len(result.clips)} usable clips{wrong}; {len(chosen)} of them ({hours:.2f} hours) are in split {split}"


def _clips_digest(clips: list[Clip]) -> str:
    """Return a digest of all properties of the clips that influence the videos."""
    fields = [{**asdict(clip), "where": "", "stamp": ()} for clip in clips]
    return text_digest(json.dumps(fields, sort_keys=True))


def _check(videos: int, seed: int, split: str, max_damaged: float, shard_size: int, workers: int) -> None:
    if videos < 1 or shard_size < 1 or workers < 1 or seed < 0:
        numbers = f"{videos}, {shard_size}, {workers} and {seed}"
        raise DataError(f"videos, shard_size and workers must be positive, seed not negative, got {numbers}")
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if not 0 <= max_damaged <= 1:
        raise DataError(f"max_damaged must be a fraction between 0 and 1, not {max_damaged:g}")


def _check_target(out: Path) -> None:
    """Raise an error if a folder has other contents; ShardFolder compares the settings once they are known."""
    if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        if not any((out / name).exists() for name in (INDEX, STARTED)):
            raise DataError(f"{out} is not empty and has no shards: choose another --out")
    elif out.exists() and not out.is_dir():
        raise DataError(f"{out} is not a folder")
