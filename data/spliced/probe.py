"""Looking at every clip before it is used: is it there, can all of it be decoded, how long is it, what is in the file.

Hashes and lengths are kept beside the shards, under the stamp of the file that they are of, so that a run that goes on
does not read everything again. What a clip cannot be used for is not kept: the next run looks again.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from framefold.data.video.frame_reader import frames_at
from framefold.errors import DataError
from framefold.files import write_json

from .annotations import Damaged
from .clips import Clip, Problems

NOTES, FORMAT = ".clips.json", 1

SAVE_EVERY = 30.0  # seconds

OVERHANG = 0.5  # seconds by which annotations may end behind their file: they are often rounded

MATROSKA = b"\x1a\x45\xdf\xa3"

ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # what an mp4 or mov file begins with


class Unsuitable(Exception):
    """A clip is whole, and too short or too long."""


@dataclass(frozen=True)
class Look:
    """What was asked of a clip: frames stored a second, and the seconds it must last at least and at most."""

    fps: float
    shortest: float
    longest: float

    def times(self, clip: Clip) -> list[float]:
        """Seconds of its file at which its frames are taken: middles of the stretches that they stand for."""
        return [clip.start + (i + 0.5) / self.fps for i in range(clip.length)]

    def measured(self, clip: Clip, duration: float) -> Clip:
        """The clip with its end and length, after it is known how long its file is.

        Raises:
            Damaged: it does not lie in the file. Unsuitable: it is too short or too long.
        """
        if clip.start >= duration or (clip.end != float("inf") and clip.end > duration + OVERHANG):
            raise Damaged(f"{clip.file}: {clip.start:g} to {clip.end:g} s of a file that ends at {duration:g} s")
        end = min(clip.end, duration)
        for question in clip.questions:
            if (question.start or 0.0) >= end or (question.end or 0.0) > end + OVERHANG:
                about = f"{question.start} to {question.end} s"
                raise Damaged(f"{clip.file} ends at {end:g} s, the question {question.text!r:.40} is about {about}")
        length = int((end - clip.start) * self.fps + 1e-6)
        if not length or not self.shortest <= length / self.fps <= self.longest:
            raise Unsuitable(f"{clip.file} lasts {end - clip.start:g} s")
        return replace(clip, end=end, length=length)


@dataclass(frozen=True)
class Probed:
    """What was found.

    Attributes:
        clips: those that can be used, with lengths, hashes and stamps, in the order in which they were given.
        sources: SHA-256 by file, of all files that can be read.
        unsuitable: clips that are too short or too long.
    """

    clips: list[Clip]
    sources: dict[str, str]
    unsuitable: int


def probe(folder: Path, clips: Sequence[Clip], look: Look, out: Path, workers: int, problems: Problems) -> Probed:
    """Open every clip and decode what will be stored of it.

    Args:
        out: folder for the notes on what was found.
        problems: damaged clips are added to these.

    Raises:
        DataError: a process that was killed.
    """
    folder = folder.resolve()  # so that notes are found again from another working folder
    notes, found, saved = _Notes(out / NOTES), dict[str, Clip](), time.monotonic()
    files = [(file, list(some)) for file, some in itertools.groupby(sorted(clips, key=_file), key=_file)]
    jobs = [(some, notes.known(folder / file)) for file, some in files]
    sources, unsuitable = dict[str, str](), 0
    bar = tqdm(total=len(clips), desc="clips", unit="clip")
    try:
        for (file, some), (known, results) in zip(files, _looked(folder, look, jobs, workers), strict=True):
            for clip, result in zip(some, results, strict=True):
                if isinstance(result, Clip):
                    found[clip.id] = result
                elif result:
                    problems.texts.append(f"{clip.where}: {result}")
                unsuitable += result == ""
            if known:
                sources[file] = known["source"]
                notes.files[os.fspath(folder / file)] = known
            if time.monotonic() > saved + SAVE_EVERY:
                notes.save()
                saved = time.monotonic()
            bar.update(len(some))
    except BrokenProcessPool as error:
        raise DataError(
            "a process that looked at clips was killed (no memory left, or a file that crashes the decoder): try fewer "
            "--workers, or --workers 1 and see at which clip it stops"
        ) from error
    finally:
        bar.close()
        notes.save()
    return Probed([found[clip.id] for clip in clips if clip.id in found], sources, unsuitable)


def _file(clip: Clip) -> str:
    return clip.file


Result = Clip | str  # a clip that can be used, why it cannot be, or "" if it is only too short or too long

Job = tuple[list[Clip], dict[str, Any]]


def _looked(folder: Path, look: Look, jobs: list[Job], workers: int) -> Iterator[tuple[dict[str, Any], list[Result]]]:
    """Results of the jobs, in order, as they get ready."""
    work = functools.partial(_look_at, folder, look)
    if workers == 1:
        yield from map(work, jobs)
        return
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _look_at(folder: Path, look: Look, job: Job) -> tuple[dict[str, Any], list[Result]]:
    """All clips of one file; and what to note of it."""
    clips, known = job
    path = folder / clips[0].file
    try:
        stamp = stamp_of(path)
        source = known.get("source") or _hash(path)
        if stamp_of(path) != stamp:
            raise Damaged(f"{path} changes while it is read")
    except (OSError, Damaged) as error:
        return {}, [f"{clips[0].file} cannot be read: {error}"] * len(clips)
    spans, results = dict(known.get("spans", {})), list[Result]()
    for clip in clips:
        name = f"{clip.start!r} {clip.end!r} {look.fps!r}"
        try:
            if name in spans:
                duration = spans[name]
                measured = look.measured(clip, duration)
            else:
                measured, spans[name] = _decoded(path, look, clip)
            results.append(replace(measured, source=source, stamp=stamp))
        except Unsuitable:
            results.append("")
        except (Damaged, DataError) as error:
            results.append(str(error))
    return {"stamp": list(stamp), "source": source, "spans": spans}, results


def _decoded(path: Path, look: Look, clip: Clip) -> tuple[Clip, float]:
    """The clip as it was measured, after all frames that are wanted of it were decoded; and how long its file is."""
    seen = list[tuple[Clip, float]]()

    def wanted(duration: float) -> list[float]:
        seen[:] = [(look.measured(clip, duration), duration)]
        return look.times(seen[0][0])

    count = sum(1 for _ in frames_at(path, wanted))
    measured, duration = seen[0]
    if count != measured.length:
        raise Damaged(f"{clip.file} gives {count} of {measured.length} frames")
    return measured, duration


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        head = file.read(8)
        if not head.startswith(MATROSKA) and head[4:] not in ATOMS:
            raise Damaged("its first bytes are not those of mp4, mov, mkv or webm")
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """What the system says of a file and no writer can leave as it was: its size, when it was changed, which it is."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class _Notes:
    """What is known of files from before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(path.read_text())
            self.files = content["files"] if content["framefold_clips"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError):
            return  # none yet, or not ours: look again

    def known(self, path: Path) -> dict[str, Any]:
        """What is known of a file, nothing if it has another stamp now."""
        entry = self.files.get(os.fspath(path), {})
        try:
            return entry if tuple(entry["stamp"]) == stamp_of(path) else {}
        except (KeyError, TypeError, OSError):
            return {}

    def save(self) -> None:
        """Write them down."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"framefold_clips": FORMAT, "files": self.files})
