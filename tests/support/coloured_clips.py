"""Clips whose pixels identify the clip and the frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from framefold.data.video.codec import encode_video

SUBJECTS = ("dog", "cat", "horse", "robot", "girl", "boat", "bird")
VERBS = ("runs", "sleeps", "turns", "falls", "sings", "waits")
PLACES = ("park", "kitchen", "river", "street", "field")
LABELS = ("sport", "rest", "music", "work", "trips")


def colour(number: int) -> tuple[int, int, int]:
    """Colour of clip `number`, 0 to 124; none is black."""
    return tuple(40 + 50 * (number // 5**place % 5) for place in range(3))  # type: ignore[return-value]


def number_of(pixels: np.ndarray) -> int:
    """Number of the clip that has the colour of the middle of a frame."""
    middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)
    return int(sum(round((value - 40) / 50) * 5**place for place, value in enumerate(middle)))


def frames_of(number: int, count: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Frames (count, height, width, 3) in the colour of a clip; their upper left corner has the value of the frame."""
    frames = np.full((count, height, width, 3), colour(number), np.uint8)
    frames[:, : height // 8, : width // 8] = np.arange(count, dtype=np.uint8)[:, None, None, None]
    return frames


def write_clip(path: Path, number: int, count: int, fps: float, height: int = 32, width: int = 32) -> None:
    """Write a clip without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_video(frames_of(number, count, height, width), np.arange(count) / fps, crf=0))


def caption(number: int) -> str:
    """Caption of clip `number`; numbers 0 to 209 have distinct ones."""
    return f"a {SUBJECTS[number % 7]} {VERBS[number // 7 % 6]} in the {PLACES[number // 42 % 5]}"


def write_clips(folder: Path, count: int, labels: bool = False) -> list[dict[str, Any]]:
    """Write clips of 3 to 6 seconds with several frame rates and sizes, and annotations.json; return its rows."""
    rows = []
    for number in range(count):
        fps, size = (4, 5, 8)[number % 3], ((32, 32), (32, 48), (64, 32))[number % 3]
        name = f"{'deep/er/' if number % 2 else ''}clip{number:03d}.mp4"
        write_clip(folder / name, number, round(fps * (3 + number % 4)), fps, *size)
        row = {"file": name, "caption": caption(number), "id": f"clip {number}"}
        rows.append(row | ({"label": LABELS[number % 5]} if labels else {}))
    (folder / "annotations.json").write_text(json.dumps(rows))
    return rows
