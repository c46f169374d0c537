"""Look at one video with its questions and their evidence: the verb ``framefold view``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from framefold.data.question import Question
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.generate import generate
from framefold.errors import DataError

from .contact_sheet import thinned

MOST_COLUMNS = 64

Clip = tuple[str, np.ndarray, np.ndarray, tuple[Question, ...]]  # key, frames, times, questions


def view(
    out: str,
    index: int = 0,
    shards: str | None = None,
    frames: int = 64,
    seed: int = 0,
    split: str = "test",
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    columns: int = 8,
) -> Path:
    """Draw a video with its questions and their evidence as a contact sheet, or write it as a video file.

    Args:
        out: file to write: .png for the sheet, .mp4 for the video, whose questions and answers are then printed.
        index: number of the video, from 0.
        shards: take the video from this folder of shards; frames, seed, split, difficulty and style then say nothing.
        frames: length of the video.
        seed: another seed gives other videos.
        split: train, val or test.
        difficulty: "easy", "hard", or a mapping of settings.
        style: of the pictures.
        columns: frames in a row. Of more than 64 frames, those are drawn that hold evidence, and others evenly.

    Returns:
        Path of the file.

    Raises:
        DataError: no such video, a setting out of range, or a place where no file can be written.
    """
    if not 1 <= columns <= MOST_COLUMNS:
        raise DataError(f"columns must be between 1 and {MOST_COLUMNS}, not {columns}")
    file = _place(out)
    film = file.suffix.lower() == ".mp4"
    if film:  # both need an extra, each another one
        from framefold.data.video.codec import encode_video
    else:
        from .contact_sheet import ContactSheet, draw_contact_sheet
    clip = _stored(shards, index) if shards else _made(index, frames, seed, split, difficulty, style)
    key, pixels, times, questions = clip
    if film:
        _write(file, lambda beside: beside.write_bytes(encode_video(pixels, times)))
        print(f"{key}: {len(pixels)} frames, {len(questions)} questions: {file}")
        print("\n".join(f"  {question.text} {question.answer}" for question in questions))
        return file
    shown = thinned(len(pixels), {box[0] for question in questions for box in question.evidence})
    title = _title(clip, len(shown), shards, difficulty, style)
    _write(
        file, lambda beside: draw_contact_sheet(ContactSheet(title, pixels, times, questions, shown, columns), beside)
    )
    print(f"{key}: {len(shown)} of {len(pixels)} frames, {len(questions)} questions: {file}")
    return file


def _made(index: int, frames: int, seed: int, split: str, difficulty: str | Difficulty, style: str) -> Clip:
    video = generate(index, seed=seed, split=split, frames=frames, difficulty=difficulty, style=style)
    return f"{split}-{seed}-{index:08d}", video.frames, video.times, video.questions


def _stored(folder: str, index: int) -> Clip:
    from webdataset.tariterators import tarfile_samples  # the extra that stored videos need, and torch with it

    from framefold.data.shards.index import read_index
    from framefold.data.shards.sample import VideoSample, unpack

    place = index
    for shard in read_index(folder):
        if 0 <= place < shard.samples:
            samples = tarfile_samples([{"url": shard.path}], handler=lambda error: True)  # what is left is too few
            raw = next(itertools.islice(samples, place, None), None)
            if raw is None:
                raise DataError(f"{shard.path} is damaged; 'framefold shards check --shards {folder}' says more")
            sample = unpack(raw["__key__"], raw)
            if not isinstance(sample, VideoSample):
                raise DataError(f"{folder} holds features, which cannot be drawn: give the videos they were made of")
            return sample.key, sample.frames.numpy(), sample.times.numpy(), sample.questions
        place -= shard.samples
    raise DataError(f"no video {index} in {folder}: it holds 0 to {index - place - 1}")


def _title(clip: Clip, shown: int, shards: str | None, difficulty: str | Difficulty, style: str) -> str:
    key, pixels, times, _ = clip
    made = f"{difficulty if isinstance(difficulty, str) else 'own difficulty'}, {style}"
    source = f"from {Path(shards).name}" if shards else made
    count, height, width, _ = pixels.shape
    left_out = f", {shown} shown" if shown < count else ""
    return f"{key}  ({source})   {count} frames of {width} x {height}{left_out}, {times[-1]:.4g} s"


def _place(out: str) -> Path:
    """The file to write, found fit before any work is done; nothing is made yet."""
    file = Path(out)
    if file.suffix.lower() not in (".png", ".mp4"):
        raise DataError(f"out must be a file name that ends in .png or .mp4, not {out!r}")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if file.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"cannot write {out}: {file if file.is_dir() else folder} is in the way or not writable")
    return file


def _write(file: Path, write: Callable[[Path], object]) -> None:
    """Write beside the place and rename, so that a full disk or a kill leaves an older file whole."""
    beside = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write(beside)
        os.replace(beside, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
    finally:
        beside.unlink(missing_ok=True)
