"""The verb ``framefold shards splice``: short annotated clips become long videos with questions, as webdataset shards.

The idea is FiLA-Video's (arXiv 2504.20384), whose data and code are not public; this is our own way of doing it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import INDEX, STARTED, VIDEOS
from framefold.data.shards.writer import Packed, ShardFolder
from framefold.data.splits import SPLITS
from framefold.data.video.codec import encode_video
from framefold.errors import DataError

from .annotations import find_annotations, read_annotations
from .clips import Clip, Problems, read_clips, splits, unknown_columns
from .frames import ClipFrames
from .notes import annotate
from .plan import ClipPool, Plan
from .probe import Probed, probe
from .questions import ask_about_clips
from .settings import Setup, pair

VERSION = 1  # of how clips become videos; part of the settings


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
    """Splice short annotated clips to long videos with questions, and write them as webdataset shards.

    Args:
        clips: folder of mp4, mkv, webm or mov files, in folders below it too. See data/README.md for their annotations.
        out: folder for the shards and their index.
        annotations: json, jsonl or csv file; by default the only one directly in the folder of clips.
        videos: how many.
        minutes: shortest and longest video; clips are not cut to fit.
        fps: frames a second that are stored.
        size: height and width of the stored frames; one number for a square. Frames are made to fit, with black bars.
        clip_seconds: clips shorter or longer than these are left out.
        questions: at most so many of each type a video; of the clips' own questions all are asked.
        seed: another seed gives other videos.
        split: train, val or test (8, 1 and 1 of 10 clips, by their ids), which never share a clip.
        max_damaged: share of the annotations that may be unusable; they are named and left out.
        shard_size: videos per shard.
        crf: H.264 quality, 1 (best) to 51; 0 stores the frames without loss.
        workers: processes that look at clips and write shards at the same time.

    Raises:
        DataError: a setting out of range, annotations or clips that cannot be used, too few clips for a video, or a
            folder that holds something else.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    height, width = pair("size", size)
    lengths = pair("minutes", minutes), pair("clip_seconds", clip_seconds)
    setup = Setup(lengths[0], float(fps), (int(height), int(width)), lengths[1], questions, crf)
    _check(videos, seed, split, max_damaged, shard_size, workers)
    folder, target = Path(clips), Path(out)
    if not folder.is_dir():
        raise DataError(f"no folder of clips {folder}")
    _check_target(target)
    pool = ClipPool(_usable(folder, annotations, setup, target, split, max_damaged, workers), split, *setup.frames, fps)
    plans = pool.plans(seed, videos)
    settings = {"splice": VERSION, **json.loads(json.dumps(asdict(setup))), "seed": seed, "split": split}
    settings |= {"videos": videos, "shard_size": shard_size, "clips": _digest(pool.clips)}
    for plan in tqdm(plans, desc="questions", unit="video"):
        if not ask_about_clips(plan, annotate(plan, setup, settings), questions):
            raise DataError(f"nothing can be asked about video {plan.key[2]}: the captions of its clips are all alike")
    shards = ShardFolder[_Task](out, VIDEOS, SCHEMA_VERSION, settings, "framefold shards splice")
    if shards.complete:
        print(f"{out} is complete: {videos} videos in {-(-videos // shard_size)} shards")
        return
    spans = [plans[first : first + shard_size] for first in range(0, videos, shard_size)]
    if not shards.write([_Task(folder, setup, settings, span) for span in spans], _videos, workers):
        print(f"other processes are still writing to {out}; the last one writes its index")


@dataclass(frozen=True)
class _Task:
    """A shard to write."""

    folder: Path
    setup: Setup
    settings: dict[str, Any]
    plans: list[Plan]


def _videos(task: _Task) -> Iterator[Packed]:
    frames = ClipFrames(task.folder, task.setup.look, task.setup.size)
    for plan in task.plans:
        notes = annotate(plan, task.setup, task.settings)
        notes["questions"] = [asdict(question) for question in ask_about_clips(plan, notes, task.setup.questions)]
        mp4 = encode_video(frames.row(plan.clips), notes["times"], task.setup.crf)
        text = json.dumps(notes, separators=(",", ":"))
        seed, split, index = plan.key
        yield Packed(f"splice-{split}-{seed}-{index:08d}", {"mp4": mp4, "json": text.encode()}, len(notes["times"]))


def _usable(
    folder: Path, annotations: str | None, setup: Setup, out: Path, split: str, max_damaged: float, workers: int
) -> list[Clip]:
    """The clips of a split that can be used, all of them looked at; the others are named."""
    rows = read_annotations(find_annotations(folder, annotations))
    problems = Problems(max_damaged, len(rows))
    unknown = unknown_columns(rows)
    if unknown:
        warnings.warn(f"nothing is done with the columns {', '.join(unknown)} of the annotations", stacklevel=3)
    clips = read_clips(folder, rows, problems)
    problems.check()
    found = probe(folder, clips, setup.look, out, workers, problems)
    problems.check()
    if problems.texts:
        lines = "\n  ".join(problems.texts)
        warnings.warn(f"{len(problems.texts)} of {len(rows)} annotations are left out:\n  {lines}", stacklevel=3)
    of = splits(clips, found.sources)
    mine = [clip for clip in found.clips if of[clip.id] == split]
    print(_summary(found, mine, split, setup))
    return mine


def _summary(found: Probed, mine: list[Clip], split: str, setup: Setup) -> str:
    hours = sum(clip.length for clip in mine) / setup.fps / 3600
    low, high = setup.clip_seconds
    left = f", {found.unsuitable} are not {low:g} to {high:g} seconds long" if found.unsuitable else ""
    return f"{len(found.clips)} clips can be used{left}; {len(mine)} of them ({hours:.2f} hours) are of split {split}"


def _digest(clips: list[Clip]) -> str:
    """Changes with anything about the clips that the videos are made of."""
    plain = [{**asdict(clip), "where": "", "stamp": ()} for clip in clips]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _check(videos: int, seed: int, split: str, max_damaged: float, shard_size: int, workers: int) -> None:
    if videos < 1 or shard_size < 1 or workers < 1 or seed < 0:
        numbers = f"{videos}, {shard_size}, {workers} and {seed}"
        raise DataError(f"videos, shard_size and workers must be positive, seed not negative, got {numbers}")
    if split not in SPLITS:
        raise DataError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if not 0 <= max_damaged <= 1:
        raise DataError(f"max_damaged must be a share between 0 and 1, not {max_damaged:g}")


def _check_target(out: Path) -> None:
    """Nothing of other people's is written to; the rest of the check is ShardFolder's, once the settings are known."""
    if out.is_dir() and any(not entry.name.startswith(".") for entry in out.iterdir()):
        if not any((out / name).exists() for name in (INDEX, STARTED)):
            raise DataError(f"{out} is not empty and holds no shards: choose another --out")
    elif out.exists() and not out.is_dir():
        raise DataError(f"{out} is no folder")
