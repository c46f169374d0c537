"""Video files and annotations of them in the dialects of ``framefold shards import``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from framefold.data.video.codec import encode_video
from tests.support.coloured_clips import write_clip

COUNT, SECONDS, FPS = 6, 4, 5  # of the clips


def write_videos(folder: Path) -> Path:
    """Write clips ``clip000.mp4`` and so on, of 4 seconds, and ``deep/wide.mp4``, which is 96 pixels wide."""
    for number in range(COUNT):
        write_clip(folder / f"clip{number:03d}.mp4", number, SECONDS * FPS, FPS)
    (folder / "deep").mkdir()
    frames = np.zeros((10, 32, 96, 3), np.uint8)
    frames[:, :, 48:] = 250
    (folder / "deep" / "wide.mp4").write_bytes(encode_video(frames, np.arange(10) / 5, crf=0))
    return folder


def chat(*texts: str, video: Any = "clip000.mp4", **fields: Any) -> dict[str, Any]:
    """Return a row of LLaVA: texts alternate between user and assistant."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"id": "1", "video": video, "conversations": turns, **fields}


def messages(*texts: Any, **fields: Any) -> dict[str, Any]:
    """Return a row of messages: contents alternate between user and assistant."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)], **fields}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Path:
    """Write rows as JSON, or as JSON lines if the name of the file ends so."""
    lines = "\n".join(map(json.dumps, rows)) + "\n"
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows))
    return path
