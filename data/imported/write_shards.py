"""The verb ``framefold shards import``: annotations and video files of others as webdataset shards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from framefold.data.question import SCHEMA_VERSION
from framefold.data.shards.index import INDEX, STARTED, VIDEOS, read_shard_json
from framefold.data.shards.writer import PackedSample, ShardFolder
from framefold.errors import DataError
from framefold.files import file_digest, replace_file, text_digest, write_json
from framefold.progress import progress_bar

from .damage_log import DamageLog, count_kinds, describe_damage
from .dialects.damage import RefusedRow
from .dialects.registry import AUTO, find_dialect
from .frames import FrameSampler, find_video
from .pack import pack_import
from .plan import DAMAGE, ImportPlan, make_plan, read_plan, read_samples_at
from .rows import find_files
from .settings import ImportSettings

VERSION = 1  # of the conversion; part of the settings

VERB = "framefold shards import"

WORK, LOCK = ".import", ".import.lock"  # folder of the plan, until all shards are written

LISTED, REPORT = "damaged.jsonl", "import.json"


def import_shards(
    annotations: str,
    videos: str,
    out: str,
    format: str = AUTO,
    columns: dict[str, str | list[str]] | None = None,
    fps: float = 1.0,
    max_frames: int = 256,
    size: int = 448,
    sample: float = 1.0,
    seed: int = 0,
    shard_size: int = 64,
    crf: int = 18,
    workers: int = 1,
) -> None:
    """Write videos with the conversations that annotations have about them as webdataset shards.

    Running the command again resumes an interrupted run. What cannot be imported is counted by kind, and listed in
    damaged.jsonl in the folder of the shards.

    Args:
        annotations: JSON, JSONL, CSV or TSV file, or a glob in quotes.
        videos: folder of the video files that the annotations name.
        out: folder for the shards and their index.
        format: llava, sharegpt, messages, sharegpt4video, activitynet or csv; auto looks at the first row of each file.
        columns: field of the annotations by the name that the format expects, such as {video: path, answer: label};
            for options, also a list of fields.
        fps: stored frames per second.
        max_frames: largest number of stored frames of a video; longer videos have them evenly spaced.
        size: largest side of the stored frames in pixels; smaller frames are not enlarged.
        sample: fraction of the rows to import.
        seed: seed of the choice of rows, which depends on nothing else.
        shard_size: videos per shard.
        crf: H.264 quality, 1 (best) to 51; 0 is lossless.
        workers: processes that decode videos and write shards at the same time.

    Raises:
        DataError: a setting is out of range, there are no such annotations or videos, nothing can be imported, or the
            folder contains something else.
        OSError: the disk is full or not writable; finished shards are kept.
    """
    if workers < 1:
        raise DataError(f"workers must be positive, not {workers}")
    settings = ImportSettings(format, columns or {}, float(fps), max_frames, size, float(sample), seed, shard_size, crf)
    find_dialect(format)
    root, target = Path(videos), Path(out)
    if not root.is_dir():
        raise DataError(f"there is no folder of videos {root}")
    files = find_files(annotations)
    sources = [{"file": file.name, "sha256": file_digest(file)} for file in files]
    recorded = {"import": VERSION, "annotations": sources, **json.loads(json.dumps(asdict(settings)))}
    digest = text_digest(json.dumps(recorded, sort_keys=True))
    # A folder is not begun before its annotations have been read, so that other settings may follow those that fail.
    plan = _locked_plan(files, target, settings, digest) if _is_fresh(target) else None
    shards = ShardFolder[_Task](out, VIDEOS, SCHEMA_VERSION, recorded, VERB)
    if not shards.complete:
        plan = plan or _locked_plan(files, target, settings, digest)
        tasks = [_Task(root, target / WORK, digest[:8], settings, number, *at) for number, at in enumerate(plan.shards)]
        if not shards.write(tasks, _import_shard, workers):
            print(f"other processes are still writing to {out}; the last one to finish writes the index")
            return
    _finish(target)
    print(_summary(target))


@dataclass(frozen=True)
class _Task:
    """The samples of one shard.

    Attributes:
        root: folder of the videos.
        work: folder of the plan.
        prefix: start of all keys.
        settings: of the import.
        number: of the shard.
        offset: byte of the plan at which its samples start.
        count: number of its samples.
    """

    root: Path
    work: Path
    prefix: str
    settings: ImportSettings
    number: int
    offset: int
    count: int


def _import_shard(task: _Task) -> Iterator[PackedSample]:
    """Yield the samples of a shard; its damage is listed completely before the shard gets its name."""
    sampler = FrameSampler(task.settings)
    with open(_damage_of(task.work, task.number), "w") as file:
        damage = DamageLog(file)
        planned = read_samples_at(task.work, task.offset, task.count)
        for sample in progress_bar(planned, "its videos", total=task.count, unit="video", leave=False):
            rows = ", ".join(sample["rows"])
            try:
                frames, times = sampler.read(find_video(task.root, sample["video"]))
                key = f"{task.prefix}-{sample['number']:08d}"
                packed, refused = pack_import(key, sample, frames, sampler, times)
            except RefusedRow as error:
                damage.add(rows, sample["video"], error)
                continue
            for one in refused:
                damage.add(rows, sample["video"], one)
            yield packed


def _is_fresh(target: Path) -> bool:
    """Return whether nothing has been written to a folder, apart from a plan."""
    if not target.is_dir():
        return not target.exists()
    return not (target / STARTED).exists() and all(entry.name.startswith(".") for entry in target.iterdir())


def _locked_plan(files: list[Path], target: Path, settings: ImportSettings, digest: str) -> ImportPlan:
    """Make the plan in one process; others that run the same command wait for it.

    Raises:
        DataError: nothing can be imported.
    """
    (target / WORK).mkdir(parents=True, exist_ok=True)
    with FileLock(target / LOCK):
        plan = make_plan(files, target / WORK, settings, digest)
    if not plan.samples:
        kinds = "; ".join(" ".join(line.split()) for line in describe_damage(plan.damaged)) or "no rows were chosen"
        found = f"nothing can be imported from {plan.chosen:,} of {plan.rows:,} rows: {kinds}"
        raise DataError(f"{found}; see {target / WORK / DAMAGE}")
    return plan


def _damage_of(work: Path, number: int) -> Path:
    return work / f"damaged-{number:06d}.jsonl"


def _finish(target: Path) -> None:
    """Join the lists of damage, write the report and remove the plan, once all shards are complete."""
    work = target / WORK
    if read_plan(work) is None:
        return
    with FileLock(target / LOCK):
        if (plan := read_plan(work)) is None:  # another process has been faster
            return
        lists = [work / DAMAGE, *(_damage_of(work, number) for number in range(len(plan.shards)))]
        present = [file for file in lists if file.is_file()]
        if len(present) == len(lists) or not (target / REPORT).is_file():  # not after a lost shard was written again
            samples = read_shard_json(target / INDEX)["samples"]
            report = {"rows": plan.rows, "chosen": plan.chosen, "samples": samples, "damaged": count_kinds(present)}
            replace_file(target / LISTED, lambda path: _join(present, path))
            write_json(target / REPORT, report)
        shutil.rmtree(work)
    (target / LOCK).unlink(missing_ok=True)


def _join(files: list[Path], path: Path) -> None:
    with open(path, "wb") as joined:
        for file in files:
            with open(file, "rb") as part:
                shutil.copyfileobj(part, joined)


def _summary(target: Path) -> str:
    """Return what was imported and what was not."""
    report: dict[str, Any] = json.loads((target / REPORT).read_text())
    damaged = report["damaged"]
    head = f"{target}: {report['samples']:,} videos from {report['chosen']:,} of {report['rows']:,} rows"
    if not damaged:
        return f"{head}; nothing was left out"
    lines = [f"{head}; left out, see {target / LISTED}:", *describe_damage(damaged)]
    if not report["samples"]:
        raise DataError("; ".join(" ".join(line.split()) for line in lines) + "; delete the folder and try again")
    return "\n".join(lines)
