"""Data of the page question by question: frames, answers, and the tokens that each method kept."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from framefold.errors import DataError, ResultsError
from framefold.evaluation.results.result_files import Result
from framefold.evaluation.results.settings import Settings

from .page_frames import FrameMosaic, VideoFrames, frame_mosaics, load_frames

LARGEST_GRID = 2**24  # tokens

NOTHING_KEPT = (
    "These results do not contain the kept tokens: run 'framefold ablate' with --drill N to record those of N videos."
)


class PageQuestions:
    """Questions about the first videos, and the tokens that were kept for them.

    Args:
        results: results of one table.
        max_videos: largest number of videos to show.

    Raises:
        ResultsError: the answers or kept tokens of a result are damaged.
    """

    def __init__(self, results: Sequence[Result], max_videos: int) -> None:
        for result in results:
            _check(result)
        self.settings, self.columns = results[0]["settings"], results[0]["answers"]
        self.grids: dict[int, tuple[int, int, int]] = {}
        for result in results:
            for kept in result["kept"]:
                self.grids.setdefault(kept["video"], tuple(kept["grid"]))
        self.videos = sorted(self.grids)[:max_videos]
        self.numbers = [number for number, video in enumerate(self.columns["video"]) if video in self.videos]
        self.answer_texts: dict[str, int] = {}

    def to_page(self, types: list[str]) -> dict[str, Any]:
        """Return videos and questions as data of the page.

        Args:
            types: question types in the order of the page.
        """
        if not self.videos:
            return {"reason": NOTHING_KEPT}
        frames, reason = self._load_frames()
        mosaics = dict(zip(frames, frame_mosaics(frames.values()), strict=True))
        videos = [self._video(video, frames.get(video), mosaics.get(video), reason) for video in self.videos]
        questions, asked = [], dict.fromkeys(self.videos, 0)
        for number in self.numbers:
            video = self.columns["video"][number]
            boxes = frames[video].evidence[asked[video]] if video in frames else ()
            questions.append(
                {
                    "number": number,
                    "video": self.videos.index(video),
                    "type": types.index(self.columns["type"][number]),
                    "text": self.columns["question"][number],
                    "answer": self.columns["answer"][number],
                    "boxes": [[box[0], *(round(edge, 4) for edge in box[1:])] for box in boxes],
                }
            )
            asked[video] += 1
        return {"videos": videos, "questions": questions}

    def _load_frames(self) -> tuple[dict[int, VideoFrames], str]:
        """Return the frames of the videos by number, and the reason for which those of others are missing."""
        try:
            frames = load_frames(self.settings, {video: self.grids[video] for video in self.videos})
        except DataError as error:
            return {}, str(error)
        for video, one in frames.items():
            texts = [self.columns["question"][n] for n in self.numbers if self.columns["video"][n] == video]
            if one.texts != texts or len(one.frames) != self.grids[video][0]:
                return {}, "The frames are not shown: the videos available now are not those of these results."
        return frames, "The frames are not shown: this video is not available any more."

    def _video(self, video: int, frames: VideoFrames | None, mosaic: FrameMosaic | None, reason: str) -> dict[str, Any]:
        grid, note = self.grids[video], ""
        if mosaic is None:
            note = reason
        elif len(mosaic.shown) < grid[0]:
            note = f"{len(mosaic.shown)} of {grid[0]} frames are shown: those with evidence, and evenly spaced others."
        return {
            "name": f"video {video}",
            "grid": list(grid),
            "times": [] if frames is None else frames.times,
            "mosaic": None if mosaic is None else mosaic.to_page(),
            "note": note,
        }

    def answers_of(self, result: Result) -> dict[str, Any] | None:
        """Return the answers and kept tokens of a result for these questions; None if it has no kept tokens."""
        if not result["kept"]:
            return None
        columns = result["answers"]
        sets: list[dict[str, Any]] = []
        set_of: dict[tuple[int, int | None], int] = {}
        for kept in result["kept"]:
            if kept["video"] in self.grids and tuple(kept["grid"]) == self.grids[kept["video"]]:
                set_of[kept["video"], kept["row"]] = len(sets)
                sets.append(pack_kept(kept["index"], kept["size"], kept["grid"]))
        videos = [columns["video"][number] for number in self.numbers]
        recall = [columns["recall"][number] for number in self.numbers]
        return {
            "said": [self._text_number(columns["said"][number]) for number in self.numbers],
            "recall": None if all(share is None for share in recall) else recall,
            "kept": [
                set_of.get((video, number), set_of.get((video, None), -1))
                for number, video in zip(self.numbers, videos, strict=True)
            ],
            "sets": sets,
        }

    def _text_number(self, text: str) -> int:
        return self.answer_texts.setdefault(text, len(self.answer_texts))


def _check(result: Result) -> None:
    """Raise ResultsError if the answers or kept tokens of a result are not what they should be."""
    for name in ("type", "question", "answer", "said"):
        if not all(isinstance(text, str) for text in result["answers"][name]):
            raise _damaged(result, f"{name} contains something that is not a string")
    shares = [share for share in result["answers"]["recall"] if share is not None]
    if not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares):
        raise _damaged(result, "recall contains something that is not a share")
    for kept in result["kept"]:
        try:
            grid, index, size = kept["grid"], kept["index"], kept["size"]
            integers = [*grid, *index, *(size or ()), kept["video"], kept["row"] or 0]
            valid = all(type(number) is int and number >= 0 for number in integers) and len(grid) == 3
            ascending = all(a < b for a, b in pairwise([-1, *index, prod(grid)]))
            if not (valid and ascending and prod(grid) <= LARGEST_GRID and len(size or index) == len(index)):
                raise ValueError(f"not the tokens of a grid {grid}")
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(result, f"kept: {error}") from error


def _damaged(result: Result, reason: str) -> ResultsError:
    file = Settings(**result["settings"]).file
    return ResultsError(f"{file} is damaged ({reason}): delete it and run 'framefold ablate' again")


def pack_kept(index: Sequence[int], size: Sequence[int] | None, grid: Sequence[int]) -> dict[str, Any]:
    """Return kept tokens in compact form: a bit per token of the grid and, if tokens were merged, their sizes.

    Args:
        index: anchors in the flattened (T, H, W) grid, ascending.
        size: number of originals of each kept token; None if all are 1.
        grid: (T, H, W).
    """
    mask = np.zeros(prod(grid), bool)
    mask[list(index)] = True
    sizes = None if size is None else base64.b64encode(b"".join(map(_varint, size))).decode()
    return {"mask": pack_bits(mask), "sizes": sizes, "count": len(index)}


def pack_bits(bits: Any) -> str:
    """Return bits as base64 text; the first bit is the highest of the first byte."""
    return base64.b64encode(np.packbits(np.asarray(bits, bool)).tobytes()).decode()


def _varint(number: int) -> bytes:
    """Encode a number in groups of seven bits, the lowest first; the highest bit of a byte says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
