"""The stored frames of a video file, and the damage of files by kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import av
import numpy as np
from PIL import Image

from framefold.data.video.frame_reader import frames_at
from framefold.data.video.main_stream import open_video
from framefold.errors import DataError

from .dialects.damage import RefusedRow
from .settings import ImportSettings

SUFFIXES = ("", ".mp4", ".mkv", ".webm", ".mov", ".avi")  # tried in this order for names of videos


def find_video(root: Path, name: str) -> Path:
    """Return the file of a video: a path in the folder of videos, or its name without the suffix.

    Raises:
        RefusedRow: it does not exist, or cannot be read.
    """
    inside = _relative(root, name)
    candidates = (root / f"{inside}{suffix}" for suffix in SUFFIXES)
    path = next((candidate for candidate in candidates if os.path.lexists(candidate)), None)
    try:
        if path is None or not path.exists():
            raise RefusedRow("missing_video", f"there is no {root / inside}")
        if path.is_dir():
            raise RefusedRow("not_a_file", f"{path} is a folder")
        if not path.stat().st_size:
            raise RefusedRow("empty_file", f"{path} has 0 bytes")
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise RefusedRow("unreadable_file", f"{path}: {error.strerror or error}") from error
    return path


def _relative(root: Path, name: str) -> str:
    """Return a path relative to the root, which may be absolute if it is inside."""
    if PurePosixPath(name).is_absolute() and Path(name).is_relative_to(root.absolute()):
        name = str(Path(name).relative_to(root.absolute()))
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.root or ".." in windows.parts or "\0" in name:
        raise RefusedRow("outside_root", f"{name!r:.100} is not inside {root}")
    return name


class FrameSampler:
    """Reads the frames that are stored of a video: ``fps`` a second, or ``max_frames`` evenly spaced ones.

    Args:
        settings: of the import.

    Attributes:
        duration: seconds of the file that was read last.
    """

    def __init__(self, settings: ImportSettings) -> None:
        self.settings, self.duration = settings, 0.0

    def read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Return frames (T, H, W, 3) uint8, upright, and (T,) seconds: midpoints of equal intervals of the file.

        Raises:
            RefusedRow: the file is no video, or is damaged where frames are needed.
        """
        _check_video(path)
        times: list[float] = []

        def frame_times(duration: float) -> Sequence[float]:
            count = max(1, min(self.settings.max_frames, int(duration * self.settings.fps + 1e-6)))
            self.duration = duration
            times[:] = [(place + 0.5) * duration / count for place in range(count)]
            return times

        frames, count = np.empty(0), 0
        try:
            for pixels in frames_at(path, frame_times, 0.5 / self.settings.fps):
                fitted = _fit(pixels, self.settings.size)
                frames = np.empty((len(times), *fitted.shape), np.uint8) if count == 0 else frames
                frames[count] = fitted
                count += 1
        except (DataError, MemoryError) as error:
            raise RefusedRow("damaged_video", " ".join(str(error).split())[:200]) from error
        if not count or count != len(times):
            raise RefusedRow("damaged_video", f"{count} of {len(times)} frames of {path} decode")
        return frames, np.round(times, 3)


def _check_video(path: Path) -> None:
    try:
        with open_video(path):
            pass
    except DataError as error:
        raise RefusedRow("no_video_stream", str(error)) from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise RefusedRow("not_a_video", f"{path}: {error}"[:200]) from error


def _fit(pixels: np.ndarray, size: int) -> np.ndarray:
    """Shrink a frame so that its longer side has at most `size` pixels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, size / max(height, width))
    if scale == 1.0:
        return pixels
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR))
