"""The verb ``framefold view``: one video with its questions and evidence, as a contact sheet or as a video file."""

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
from framefold.files import replace_file

from .frame_selection import select_frames

MAX_COLUMNS = 64

Contents = tuple[str, np.ndarray, np.ndarray, tuple[Question, ...]]  # key, frames, times, questions


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
    """Render a video with its questions and their evidence as a contact sheet, or write it as a video file.

    Args:
        out: file to write: .png for the sheet; .mp4 for the video, with its questions and answers printed.
        index: number of the video, from 0.
        shards: take the video from this folder of shards; frames, seed, split, difficulty and style are then ignored.
        frames: length of the video.
        seed: seed of the generator.
        split: train, val or test.
        difficulty: "easy", "hard", "crowded", or a mapping of settings.
        style: normal, held_out for other glyphs and textures, or natural for photographs as backgrounds.
        columns: frames per row. Of more than 64 frames, those with evidence and evenly spaced others are shown.

    Returns:
        Path of the file.

    Raises:
        DataError: the video does not exist, a setting is out of range, or the file cannot be written.
    """
    if not 1 <= columns <= MAX_COLUMNS:
        raise DataError(f"columns must be between 1 and {MAX_COLUMNS}, not {columns}")
    file = _check_destination(out)
    as_video = file.suffix.lower() == ".mp4"
    if as_video:  # imported here, because the two formats need different extras
        from framefold.data.video.codec import encode_video
    else:
        from .contact_sheet import ContactSheet, render_contact_sheet
    contents = _stored(shards, index) if shards else _generated(index, frames, seed, split, difficulty, style)
    key, pixels, times, questions = contents
    if as_video:
        _write(file, lambda temporary: temporary.write_bytes(encode_video(pixels, times)))
        print(f"{key}: {len(pixels)} frames, {len(questions)} questions: {file}")
        print("\n".join(f"  {question.text} {question.answer}" for question in questions))
        return file
    shown = select_frames(len(pixels), {box[0] for question in questions for box in question.evidence})
    title = _title(contents, len(shown), shards, difficulty, style)
    sheet = ContactSheet(title, pixels, times, questions, shown, columns)
    _write(file, lambda temporary: render_contact_sheet(sheet, temporary))
    print(f"{key}: {len(shown)} of {len(pixels)} frames, {len(questions)} questions: {file}")
    return file


def _generated(index: int, frames: int, seed: int, split: str, difficulty: str | Difficulty, style: str) -> Contents:
    video = generate(index, seed=seed, split=split, frames=frames, difficulty=difficulty, style=style)
    return f"{split}-{seed}-{index:08d}", video.frames, video.times, video.questions


def _stored(folder: str, index: int) -> Contents:
    """Read a video from a folder of shards, by its number in the folder."""
    # Imported here: webdataset and PyAV are from an extra that only stored videos need.
    from framefold.data.shards.index import read_index
    from framefold.data.shards.sample import VideoSample, unpack_sample
    from framefold.data.shards.sources import read_samples

    position = index
    for shard in read_index(folder).shards:
        if 0 <= position < shard.samples:
            samples = read_samples(shard.path, lambda error: True)  # stops at damage
            raw = next(itertools.islice(samples, position, None), None)
            if raw is None:
                raise DataError(f"{shard.path} is damaged; 'framefold shards check --shards {folder}' gives details")
            sample = unpack_sample(raw["__key__"], raw)
            if not isinstance(sample, VideoSample):
                raise DataError(f"{folder} has features, which cannot be rendered: give the videos they were made of")
            return sample.key, sample.frames.numpy(), sample.times.numpy(), sample.questions
        position -= shard.samples
    raise DataError(f"no video {index} in {folder}: it has videos 0 to {index - position - 1}")


def _title(contents: Contents, shown: int, shards: str | None, difficulty: str | Difficulty, style: str) -> str:
    key, pixels, times, _ = contents
    settings = f"{difficulty if isinstance(difficulty, str) else 'own difficulty'}, {style}"
    source = f"from {Path(shards).name}" if shards else settings
    count, height, width, _ = pixels.shape
    omitted = f", {shown} shown" if shown < count else ""
    return f"{key}  ({source})   {count} frames of {width} x {height}{omitted}, {times[-1]:.4g} s"


def _check_destination(out: str) -> Path:
    """Return the file to write, after checking that it can be written; nothing is created yet."""
    file = Path(out)
    if file.suffix.lower() not in (".png", ".mp4"):
        raise DataError(f"out must be a file name that ends in .png or .mp4, not {out!r}")
    folder = next(parent for parent in file.absolute().parents if parent.exists())
    if file.is_dir():
        raise DataError(f"cannot write {out}: {file} is a folder")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(f"cannot write {out}: {folder} is not a writable folder")
    return file


def _write(file: Path, write: Callable[[Path], object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, write)
