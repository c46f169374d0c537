"""Frames of the first videos of an ablation, as one small mosaic per video.

Synthetic videos are generated again from the settings of the results. Others are read from their shards, if those are
still local files. Nothing is downloaded and no command is run, because results may come from an untrusted source.

Dimensions: F frames, T steps of the token grid.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

COLUMNS = 8  # frames in a row of a mosaic

# Longest side of a frame in pixels and WebP quality; the first pair is used with which all mosaics fit into MAX_BYTES.
SIZES = ((112, 90), (96, 80), (64, 75), (48, 60))

MAX_BYTES = 2_800_000

UNAVAILABLE = "The frames of these videos are not shown: "


@dataclass(frozen=True, eq=False)
class VideoFrames:
    """Frames of a video as the host saw them, one per step of the token grid.

    Attributes:
        frames: (T, height, width, 3) uint8.
        times: T seconds.
        evidence: boxes of each question, in steps and fractions of these frames.
        texts: text of each question.
    """

    frames: np.ndarray
    times: list[float]
    evidence: list[tuple[Box, ...]]
    texts: list[str]


def load_frames(settings: dict[str, Any], grids: dict[int, tuple[int, int, int]]) -> dict[int, VideoFrames]:
    """Return the frames of videos by the numbers of the videos.

    Args:
        settings: settings of a result.
        grids: (T, H, W) of the videos, by number.

    Raises:
        DataError: the frames are not available any more; the message says why.
    """
    if not grids:
        return {}
    try:
        read = _generate if settings["data"]["kind"] == SYNTHETIC else _read_shards
        crops = _crops_to_centre(settings["host"])
        samples = dict(read(settings["data"], sorted(grids)))
        return {number: _select(sample, grids[number][0], crops) for number, sample in samples.items()}
    except (FramefoldError, OSError) as error:
        raise DataError(f"{UNAVAILABLE}{error}.") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"{UNAVAILABLE}no videos can be generated from the settings of the results ({error!r})."
        ) from error


def _generate(data: dict[str, Any], numbers: Sequence[int]) -> Iterator[tuple[int, VideoSample]]:
    difficulty = Difficulty(**{**data["difficulty"], "flashes": tuple(data["difficulty"]["flashes"])})
    recipe = Recipe((data["frames"], data["frames"]), data["seed"], data["split"], difficulty, data["style"])
    for number in numbers:
        yield number, recipe.sample(number)


def _read_shards(data: dict[str, Any], numbers: Sequence[int]) -> Iterator[tuple[int, VideoSample]]:
    from framefold.data.shards.sources import expand_shards, read_samples

    files = expand_shards(data["shards"])
    if not_local := [file for file in files if not Path(file).is_file()]:
        raise DataError(f"{not_local[0]} is not a local file")
    wanted, last = set(numbers), max(numbers)
    samples = (sample for file in files for sample in read_samples(file, lambda error: True))
    for number, raw in enumerate(samples):
        if number in wanted:
            if "mp4" not in raw or "json" not in raw:
                raise DataError(f"{data['shards']} contains features of the videos instead of their frames")
            key = str(raw["__key__"])
            yield number, unpack_video(key, read_metadata(key, raw["json"]), raw["mp4"], data["frames"])
        if number == last:
            return


def _select(sample: VideoSample, steps: int, crops: bool) -> VideoFrames:
    """Return the first frame of each step.

    Args:
        sample: video with its questions.
        steps: T.
        crops: whether the host sees only the centre of the frames.
    """
    frames, times = sample.frames.numpy(), sample.times.numpy()
    patch = -(-len(frames) // steps)  # frames per step
    view = FULL_FRAME
    if crops:
        frames, view = _centre(frames)
    numbers = range(len(times)) if sample.frame_numbers is None else sample.frame_numbers
    step_of = {number: place // patch for place, number in enumerate(numbers)}
    evidence = [relocate_evidence(question.evidence, step_of, view) for question in sample.questions]
    texts = [question.text for question in sample.questions]
    return VideoFrames(frames[::patch], [round(float(time), 3) for time in times[::patch]], evidence, texts)


def _centre(frames: np.ndarray) -> tuple[np.ndarray, Viewport]:
    """Return the largest square at the centre of (F, height, width, 3) frames, and its position."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    view = (top / height, left / width, (top + side) / height, (left + side) / width)
    return frames[:, top : top + side, left : left + side], view


def _crops_to_centre(host: str) -> bool:
    """Whether the processor of a host crops frames to their centre; False if its folder is not on this machine."""
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
    """Frames of a video in one image.

    Attributes:
        shown: steps of the frames in the image, row by row.
        tile: width and height of a frame in pixels.
        image: WebP.
    """

    shown: list[int]
    tile: tuple[int, int]
    image: bytes

    def to_page(self) -> dict[str, Any]:
        """Return the mosaic as data of the page."""
        source = "data:image/webp;base64," + base64.b64encode(self.image).decode()
        return {"src": source, "shown": self.shown, "tile": list(self.tile), "columns": COLUMNS}


def frame_mosaics(videos: Iterable[VideoFrames]) -> list[FrameMosaic]:
    """Return a mosaic for each video; long videos are reduced to frames with evidence and evenly spaced others."""
    selected = []
    for video in videos:
        shown = select_frames(len(video.frames), {box[0] for boxes in video.evidence for box in boxes})
        selected.append((video.frames[shown], shown))
    mosaics: list[FrameMosaic] = []
    for side, quality in SIZES:
        mosaics = [_mosaic(frames, shown, side, quality) for frames, shown in selected]
        if sum(len(mosaic.image) for mosaic in mosaics) <= MAX_BYTES:
            break
    return mosaics


def _mosaic(frames: np.ndarray, shown: list[int], side: int, quality: int) -> FrameMosaic:
    """Return the mosaic of (F, height, width, 3) frames.

    Args:
        frames: frames to show.
        shown: their steps.
        side: longest side of a frame in the mosaic, in pixels.
        quality: quality of the WebP image, 0 to 100.
    """
    height, width = frames.shape[1:3]
    scale = min(1.0, side / max(height, width))
    tile = max(1, round(width * scale)), max(1, round(height * scale))
    mosaic = Image.new("RGB", (COLUMNS * tile[0], -(-len(frames) // COLUMNS) * tile[1]))
    for number, frame in enumerate(frames):
        image = Image.fromarray(frame)
        image = image if image.size == tile else image.resize(tile, Image.Resampling.LANCZOS)
        mosaic.paste(image, (number % COLUMNS * tile[0], number // COLUMNS * tile[1]))
    content = io.BytesIO()
    mosaic.save(content, "WEBP", quality=quality, method=4)
    return FrameMosaic(shown, tile, content.getvalue())
