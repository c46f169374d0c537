"""Probing clips before they are used: existence, complete decoding, duration, and the SHA-256 of the file.

Digests and durations are cached next to the shards under the stamp of their file, so that a later run does not read
unchanged files again. Failures are not cached.
"""

from __future__ import annotations

import functools
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

from framefold.data.video.frame_reader import frames_at
from framefold.errors import DataError
from framefold.files import file_digest, write_json
from framefold.progress import progress_bar

from .annotations import UnusableClip
from .clips import Clip, Problems

CACHE_FILE, FORMAT = ".clips.json", 1

SAVE_INTERVAL = 30.0  # seconds

END_TOLERANCE = 0.5  # seconds by which annotated times may exceed the file, because they are often rounded

MATROSKA = b"\x1a\x45\xdf\xa3"

ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")  # first atoms of mp4 and mov files


class WrongClipLength(Exception):
    """A clip is intact, but too short or too long."""


@dataclass(frozen=True)
class ClipSampling:
    """How frames are taken from clips, and which durations are permitted.

    Attributes:
        fps: stored frames per second.
        shortest: shortest clip in seconds.
        longest: longest clip in seconds.
    """

    fps: float
    shortest: float
    longest: float

    @property
    def tolerance(self) -> float:
        """Seconds by which a frame may be off where a clip is damaged: it remains in its interval."""
        return 0.5 / self.fps

    def frame_times(self, clip: Clip) -> list[float]:
        """Return the seconds of the file at which frames of a clip are taken: midpoints of equal intervals."""
        return [clip.start + (i + 0.5) / self.fps for i in range(clip.length)]

    def measure(self, clip: Clip, duration: float) -> Clip:
        """Return a clip with its end and length, given the duration of its file in seconds.

        Raises:
            UnusableClip: the clip, or a question about it, exceeds the file.
            WrongClipLength: the clip is too short or too long.
        """
        if clip.start >= duration or (clip.end != float("inf") and clip.end > duration + END_TOLERANCE):
            raise UnusableClip(f"{clip.file}: {clip.start:g} to {clip.end:g} s of a file that ends at {duration:g} s")
        end = min(clip.end, duration)
        for question in clip.questions:
            if (question.start or 0.0) >= end or (question.end or 0.0) > end + END_TOLERANCE:
                about = f"{question.start} to {question.end} s"
                raise UnusableClip(
                    f"{clip.file} ends at {end:g} s, but the question {question.text!r:.40} is about {about}"
                )
        length = int((end - clip.start) * self.fps + 1e-6)
        if not length or not self.shortest <= length / self.fps <= self.longest:
            raise WrongClipLength(f"{clip.file} lasts {end - clip.start:g} s")
        return replace(clip, end=end, length=length)


@dataclass(frozen=True)
class ProbeResult:
    """Result of probing clips.

    Attributes:
        clips: usable clips with lengths, digests and stamps, in the given order.
        sources: SHA-256 of all files that can be read, by file.
        wrong_length: number of clips that are too short or too long.
    """

    clips: list[Clip]
    sources: dict[str, str]
    wrong_length: int


def probe_clips(
    folder: Path, clips: Sequence[Clip], sampling: ClipSampling, out: Path, workers: int, problems: Problems
) -> ProbeResult:
    """Open every clip and decode the frames that will be stored.

    Args:
        folder: folder of clips.
        clips: clips whose annotations are valid.
        sampling: how frames are taken.
        out: folder for the cache of results.
        workers: number of processes.
        problems: receives a message for every clip that cannot be used.

    Raises:
        DataError: a worker process was killed.
    """
    folder = folder.resolve()  # so that the cache does not depend on the working directory
    cache = _ProbeCache(out / CACHE_FILE)
    usable, sources, wrong_length = dict[str, Clip](), dict[str, str](), 0
    files = [(file, list(group)) for file, group in itertools.groupby(sorted(clips, key=_file), key=_file)]
    jobs = [(group, cache.entry(folder / file)) for file, group in files]
    bar = progress_bar(what="clips", total=len(clips), unit="clip")
    try:
        for (file, group), (entry, results) in zip(files, _run(folder, sampling, jobs, workers), strict=True):
            for clip, result in zip(group, results, strict=True):
                if isinstance(result, Clip):
                    usable[clip.id] = result
                elif result:
                    problems.texts.append(f"{clip.where}: {result}")
                wrong_length += result == ""
            if entry:
                sources[file] = entry["source"]
                cache.add(folder / file, entry)
            bar.update(len(group))
    except BrokenProcessPool as error:
        raise DataError(
            "a process that probed clips was killed (no memory left, or a file that crashes the decoder): try fewer "
            "--workers, or --workers 1 to see at which clip it stops"
        ) from error
    finally:
        bar.close()
        cache.save()
    return ProbeResult([usable[clip.id] for clip in clips if clip.id in usable], sources, wrong_length)


def _file(clip: Clip) -> str:
    return clip.file


Result = Clip | str  # a usable clip, the reason why a clip is not usable, or "" if its length is wrong

Job = tuple[list[Clip], dict[str, Any]]  # the clips of a file, and the cache entry of the file or {}


def _run(
    folder: Path, sampling: ClipSampling, jobs: list[Job], workers: int
) -> Iterator[tuple[dict[str, Any], list[Result]]]:
    """Yield the results of all jobs in order."""
    work = functools.partial(_probe_file, folder, sampling)
    if workers == 1:
        yield from map(work, jobs)
        return
    pool = ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield from pool.map(work, jobs)
    finally:
        pool.shutdown(cancel_futures=True)


def _probe_file(folder: Path, sampling: ClipSampling, job: Job) -> tuple[dict[str, Any], list[Result]]:
    """Probe all clips of a file; return the new cache entry of the file and the results."""
    clips, cached = job
    path = folder / clips[0].file
    try:
        stamp = file_stamp(path)
        source = cached.get("source") or _video_digest(path)
        if file_stamp(path) != stamp:
            raise UnusableClip(f"{path} changed while it was read")
    except (OSError, UnusableClip) as error:
        return {}, [f"{clips[0].file} cannot be read: {error}"] * len(clips)
    durations, results = dict(cached.get("spans", {})), list[Result]()
    for clip in clips:
        name = f"{clip.start!r} {clip.end!r} {sampling.fps!r}"
        try:
            if name in durations:
                measured = sampling.measure(clip, durations[name])
            else:
                measured, durations[name] = _decode_clip(path, sampling, clip)
            results.append(replace(measured, source=source, stamp=stamp))
        except WrongClipLength:
            results.append("")
        except (UnusableClip, DataError) as error:
            results.append(str(error))
    return {"stamp": list(stamp), "source": source, "spans": durations}, results


def _decode_clip(path: Path, sampling: ClipSampling, clip: Clip) -> tuple[Clip, float]:
    """Decode all frames of a clip that will be stored; return the measured clip and the duration of its file."""
    measured = list[tuple[Clip, float]]()

    def frame_times(duration: float) -> list[float]:
        measured[:] = [(sampling.measure(clip, duration), duration)]
        return sampling.frame_times(measured[0][0])

    count = sum(1 for _ in frames_at(path, frame_times, sampling.tolerance))
    result, duration = measured[0]
    if count != result.length:
        raise UnusableClip(f"only {count} of {result.length} frames of {clip.file} can be decoded")
    return result, duration


def _video_digest(path: Path) -> str:
    """Return the SHA-256 of a video file, after checking that its first bytes are those of a video container."""
    with open(path, "rb") as file:
        head = file.read(8)
    if not head.startswith(MATROSKA) and head[4:] not in ATOMS:
        raise UnusableClip("its first bytes are not those of mp4, mov, mkv or webm")
    return file_digest(path)


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return size, modification time, change time and inode of a file; a writer cannot leave all of them unchanged."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


class _ProbeCache:
    """Digests and durations of files, stored as JSON."""

    def __init__(self, path: Path) -> None:
        self.path, self._saved = path, time.monotonic()
        self.files: dict[str, dict[str, Any]] = {}
        try:
            content = json.loads(path.read_text())
            self.files = content["files"] if content["framefold_clips"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError):
            return  # missing, damaged or of another format: probe all files again

    def entry(self, path: Path) -> dict[str, Any]:
        """Return the entry of a file, or {} if the file is unknown or has changed."""
        entry = self.files.get(os.fspath(path), {})
        try:
            return entry if tuple(entry["stamp"]) == file_stamp(path) else {}
        except (KeyError, TypeError, OSError):
            return {}

    def add(self, path: Path, entry: dict[str, Any]) -> None:
        """Set the entry of a file, and save the cache from time to time."""
        self.files[os.fspath(path)] = entry
        if time.monotonic() > self._saved + SAVE_INTERVAL:
            self.save()

    def save(self) -> None:
        """Write the cache."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"framefold_clips": FORMAT, "files": self.files})
        self._saved = time.monotonic()
