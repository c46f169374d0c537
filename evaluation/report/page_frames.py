"""The frames of the first videos of an ablation, small, a sheet of them for each video.

Synthetic videos are made anew from the settings of the cells; others are read from their shards, if those still are
local files. Nothing is downloaded and no command is run: results may come from somebody else.

Dimensions: F frames, T steps of the token grid.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from framefold.data.drawing.frame_selection import select_frames
from framefold.data.evidence import FULL_FRAME, Viewport, relocate_evidence
from framefold.data.question import Box
from framefold.data.shards.sample import VideoSample, read_metadata, unpack_video
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import DataError, FramefoldError
from framefold.evaluation.results.settings import SYNTHETIC
from framefold.training.frozen_host.locate import VIDEO_CONFIG, find_host

ACROSS = 8  # frames in a row of a sheet

# Longest side of a frame and quality, the first of which all sheets together stay within BYTES.
SIZES = ((112, 90), (96, 80), (64, 75), (48, 60))

BYTES = 2_800_000

GONE = "The frames of these videos are not shown: "


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """What the host was shown of a video, a frame a step of the grid.

    Attributes:
        frames: (T, height, width, 3) uint8. times: (T,) seconds.
        evidence: of each question, boxes in steps and fractions of these frames. texts: of the questions.
    """

    frames: np.ndarray
    times: list[float]
    evidence: list[tuple[Box, ...]]
    texts: list[str]


def films(settings: dict[str, Any], grids: dict[int, tuple[int, int, int]]) -> dict[int, VideoFrames]:
    """The videos of some numbers.

    Args:
        settings: of a cell. grids: (T, H, W) of the videos, by number.

    Raises:
        DataError: the frames cannot be had any more; the message says why.
    """
    if not grids:
        return {}
    try:
        source = _made if settings["data"]["kind"] == SYNTHETIC else _stored
        crops = _crops(settings["host"])
        samples = dict(source(settings["data"], sorted(grids)))
        return {number: _film(sample, grids[number][0], crops) for number, sample in samples.items()}
    except (FramefoldError, OSError) as error:
        raise DataError(f"{GONE}{error}.") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{GONE}the settings of the cells make no videos ({error!r}).") from error


def _made(data: dict[str, Any], numbers: Sequence[int]) -> Iterator[tuple[int, VideoSample]]:
    difficulty = Difficulty(**{**data["difficulty"], "flashes": tuple(data["difficulty"]["flashes"])})
    recipe = Recipe((data["frames"], data["frames"]), data["seed"], data["split"], difficulty, data["style"])
    for number in numbers:
        yield number, recipe.sample(number)


def _stored(data: dict[str, Any], numbers: Sequence[int]) -> Iterator[tuple[int, VideoSample]]:
    from webdataset.tariterators import tarfile_samples

    from framefold.data.shards.sources import expand_shards

    files = expand_shards(data["shards"])
    if strange := [file for file in files if ":" in file or not Path(file).is_file()]:
        raise DataError(f"{strange[0]} is no local file")
    wanted, last = set(numbers), max(numbers)
    for number, raw in enumerate(tarfile_samples([{"url": file} for file in files], handler=lambda error: True)):
        if number in wanted:
            if "mp4" not in raw or "json" not in raw:
                raise DataError(f"{data['shards']} holds what a host made of the videos, and not their frames")
            key = str(raw["__key__"])
            yield number, unpack_video(key, read_metadata(key, raw["json"]), raw["mp4"], data["frames"])
        if number == last:
            return


def _film(sample: VideoSample, steps: int, crops: bool) -> VideoFrames:
    frames, times = sample.frames.numpy(), sample.times.numpy()
    patch = -(-len(frames) // steps)  # frames in a step
    view = FULL_FRAME
    if crops:
        frames, view = _middle(frames)
    numbers = range(len(times)) if sample.frame_numbers is None else sample.frame_numbers
    step_of = {number: place // patch for place, number in enumerate(numbers)}
    evidence = [relocate_evidence(question.evidence, step_of, view) for question in sample.questions]
    texts = [question.text for question in sample.questions]
    return VideoFrames(frames[::patch], [round(float(time), 3) for time in times[::patch]], evidence, texts)


def _middle(frames: np.ndarray) -> tuple[np.ndarray, Viewport]:
    """The middle of the frames, as wide as it is high, and where it lies."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    view = (top / height, left / width, (top + side) / height, (left + side) / width)
    return frames[:, top : top + side, left : left + side], view


def _crops(host: str) -> bool:
    """Whether the processor of a host shows it the middle of frames only, as far as its folder is here to say so."""
    try:
        folder = find_host(host).folder
    except (FramefoldError, OSError):
        return False
    for name in (VIDEO_CONFIG, "preprocessor_config.json"):
        try:
            settings = json.loads((folder / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(settings, dict):
            return settings.get("do_center_crop") is True
    return False


@dataclass(frozen=True)
class FrameMosaic:
    """Frames of a video in one picture.

    Attributes:
        shown: the steps that are in it, row by row. tile: width and height of a frame. picture: WebP.
    """

    shown: list[int]
    tile: tuple[int, int]
    picture: bytes

    def plain(self) -> dict[str, Any]:
        """As the page takes it."""
        source = "data:image/webp;base64," + base64.b64encode(self.picture).decode()
        return {"src": source, "shown": self.shown, "tile": list(self.tile), "columns": ACROSS}


def sheets(films: Iterable[VideoFrames]) -> list[FrameMosaic]:
    """A sheet for each video; of long ones not every step, but those with evidence. All together stay small."""
    some = [_some(film) for film in films]
    made: list[FrameMosaic] = []
    for side, quality in SIZES:
        made = [_sheet(film.frames, shown, side, quality) for film, shown in some]
        if sum(len(sheet.picture) for sheet in made) <= BYTES:
            break
    return made


def _some(film: VideoFrames) -> tuple[VideoFrames, list[int]]:
    shown = select_frames(len(film.frames), {box[0] for boxes in film.evidence for box in boxes})
    return replace(film, frames=film.frames[shown]), shown


def _sheet(frames: np.ndarray, shown: list[int], side: int, quality: int) -> FrameMosaic:
    height, width = frames.shape[1:3]
    scale = min(1.0, side / max(height, width))
    tile = max(1, round(width * scale)), max(1, round(height * scale))
    sheet = Image.new("RGB", (ACROSS * tile[0], -(-len(frames) // ACROSS) * tile[1]))
    for place, frame in enumerate(frames):
        picture = Image.fromarray(frame)
        picture = picture if picture.size == tile else picture.resize(tile, Image.Resampling.LANCZOS)
        sheet.paste(picture, (place % ACROSS * tile[0], place // ACROSS * tile[1]))
    content = io.BytesIO()
    sheet.save(content, "WEBP", quality=quality, method=4)
    return FrameMosaic(shown, tile, content.getvalue())
