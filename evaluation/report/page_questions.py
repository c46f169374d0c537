"""What the page shows question by question: frames, and the tokens that each compressor kept of them.

Dimensions: Q questions of all videos, N places of a video's token grid.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from framefold.errors import DataError, ResultsError
from framefold.evaluation.results.settings import Settings

from .page_frames import VideoFrames, films, sheets
from .table import Cell

LARGEST = 2**24  # places of a grid

NOTHING = "These results do not say which tokens were kept: run 'framefold ablate' with --drill N for N videos."


class Drill:
    """The questions about the first videos, and what was kept for them.

    Args:
        cells: of one table. most: videos at most.
    """

    def __init__(self, cells: Sequence[Cell], most: int) -> None:
        for cell in cells:
            _check(cell)
        self.settings, self.columns = cells[0]["settings"], cells[0]["answers"]
        self.grids: dict[int, tuple[int, int, int]] = {}
        for cell in cells:
            for one in cell["kept"]:
                self.grids.setdefault(one["video"], tuple(one["grid"]))
        self.videos = sorted(self.grids)[:most]
        self.places = [place for place, video in enumerate(self.columns["video"]) if video in self.videos]
        self.words: dict[str, int] = {}

    def plain(self, types: list[str]) -> dict[str, Any]:
        """As the page takes it: videos and questions.

        Args:
            types: of questions, in the page's order.
        """
        if not self.videos:
            return {"why": NOTHING}
        found, why = self._films()
        made = dict(zip(found, sheets(found.values()), strict=True))
        videos = [self._video(number, found.get(number), made.get(number), why) for number in self.videos]
        questions, order = [], dict.fromkeys(self.videos, 0)
        for place in self.places:
            number = self.columns["video"][place]
            questions.append(self._question(place, found.get(number), order[number], types))
            order[number] += 1
        return {"videos": videos, "questions": questions}

    def _films(self) -> tuple[dict[int, VideoFrames], str]:
        """The videos by number, and why they are not there."""
        try:
            found = films(self.settings, {number: self.grids[number] for number in self.videos})
        except DataError as error:
            return {}, str(error)
        for number, film in found.items():
            asked = [self.columns["question"][p] for p in self.places if self.columns["video"][p] == number]
            if film.texts != asked or len(film.frames) != self.grids[number][0]:
                return {}, "The frames are not shown: the videos that are there now are not those of these results."
        return found, "The frames are not shown: this video is not there any more."

    def _video(self, number: int, film: VideoFrames | None, sheet: Any, why: str) -> dict[str, Any]:
        grid = self.grids[number]
        notes = []
        if film is None:
            notes.append(why)
        elif len(sheet.shown) < grid[0]:
            notes.append(f"{len(sheet.shown)} of {grid[0]} frames are drawn: those with evidence, and others evenly.")
        return {
            "name": f"video {number}",
            "grid": list(grid),
            "times": [] if film is None else film.times,
            "sheet": None if film is None else sheet.plain(),
            "note": " ".join(notes),
        }

    def _question(self, place: int, film: VideoFrames | None, order: int, types: list[str]) -> dict[str, Any]:
        boxes = [] if film is None else film.evidence[order]
        return {
            "place": place,
            "video": self.videos.index(self.columns["video"][place]),
            "type": types.index(self.columns["type"][place]),
            "text": self.columns["question"][place],
            "answer": self.columns["answer"][place],
            "boxes": [[box[0], *(round(edge, 4) for edge in box[1:])] for box in boxes],
        }

    def run(self, cell: Cell) -> dict[str, Any] | None:
        """What a cell says about these questions, None if it does not say what was kept."""
        if not cell["kept"]:
            return None
        columns = cell["answers"]
        sets: list[dict[str, Any]] = []
        kept: dict[tuple[int, int | None], int] = {}
        for one in cell["kept"]:
            if one["video"] in self.grids and tuple(one["grid"]) == self.grids[one["video"]]:
                kept[one["video"], one["row"]] = len(sets)
                sets.append(pack_kept(one["index"], one["size"], one["grid"]))
        known = [kept.get((columns["video"][p], p), kept.get((columns["video"][p], None), -1)) for p in self.places]
        recall = [columns["recall"][place] for place in self.places]
        return {
            "said": [self.words.setdefault(columns["said"][place], len(self.words)) for place in self.places],
            "recall": None if all(share is None for share in recall) else recall,
            "kept": known,
            "sets": sets,
        }


def _check(cell: Cell) -> None:
    """Raises ResultsError for a cell whose answers or kept tokens are not what they should be."""
    for name in ("type", "question", "answer", "said"):
        if not all(isinstance(text, str) for text in cell["answers"][name]):
            raise _damaged(cell, f"{name} holds something that is no text")
    if not all(
        share is None or isinstance(share, (int, float)) and 0 <= share <= 1 for share in cell["answers"]["recall"]
    ):
        raise _damaged(cell, "recall holds something that is no share")
    for one in cell["kept"]:
        try:
            grid, index, size = one["grid"], one["index"], one["size"]
            whole = [*grid, *index, *(size or ()), one["video"], one["row"] or 0]
            fits = all(type(number) is int and number >= 0 for number in whole) and len(grid) == 3
            ascends = all(a < b for a, b in pairwise([-1, *index, prod(grid)]))
            if not (fits and ascends and prod(grid) <= LARGEST and len(size or index) == len(index)):
                raise ValueError(f"no tokens of a grid {grid}")
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(cell, f"kept: {error}") from error


def _damaged(cell: Cell, why: str) -> ResultsError:
    file = Settings(**cell["settings"]).file
    return ResultsError(f"{file} is damaged ({why}): delete it and run 'framefold ablate' again")


def pack_kept(index: Sequence[int], size: Sequence[int] | None, grid: Sequence[int]) -> dict[str, Any]:
    """What was kept, short: a bit a place of the grid, and where tokens were merged how many each stands for.

    Args:
        index: anchors in the flattened (T, H, W) grid, ascending. size: originals of each; None: one.
    """
    mask = np.zeros(prod(grid), bool)
    mask[list(index)] = True
    sizes = None if size is None else base64.b64encode(b"".join(map(_varint, size))).decode()
    return {"mask": packed(mask), "sizes": sizes, "count": len(index)}


def packed(bits: Any) -> str:
    """Bits as base64, the highest of a byte first."""
    return base64.b64encode(np.packbits(np.asarray(bits, bool)).tobytes()).decode()


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit of a byte says that more follow."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
