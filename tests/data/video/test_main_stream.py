"""The video of a file with several streams is the one that FFmpeg chooses; covers are no videos."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from framefold.data.video.codec import decode_video
from framefold.data.video.frame_reader import sample_frames
from framefold.errors import DataError
from tests.support.numbered_frames import numbered, numbers_shown

Stream = tuple[str, tuple[int, int], int, Disposition | None]  # codec, size, frames, disposition

SOUND: Stream = ("aac", (0, 0), 20, None)


def write_streams(path: Path, *streams: Stream) -> Path:
    """Write streams that show their own number, at 10 frames per second."""
    with av.open(str(path), "w") as out:
        added = []
        for codec, size, _, disposition in streams:
            stream = out.add_stream(codec, rate=10 if size[0] else 8000)
            if size[0]:
                stream.height, stream.width = size
                stream.pix_fmt = {"mjpeg": "yuvj420p", "png": "rgb24"}.get(codec, "yuv420p")
            if disposition is not None:
                stream.disposition = disposition
            added.append(stream)
        for number, (stream, (_, size, count, _)) in enumerate(zip(added, streams, strict=True)):
            for _ in range(count):
                if size[0]:
                    frame = av.VideoFrame.from_ndarray(numbered(number, *size), "rgb24")
                else:
                    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                    frame.rate = 8000
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    return path


def chosen(path: Path) -> tuple[set[int], int]:
    """Numbers of the streams whose frames are read, and the number of frames."""
    sample = sample_frames(path, 4)
    assert set(numbers_shown(decode_video(path)[0])) == set(numbers_shown(sample.frames))
    return set(numbers_shown(sample.frames)), sample.total


def test_the_stream_that_ffmpeg_chooses_is_read(tmp_path: Path) -> None:
    small, large = (32, 48), (64, 96)
    default, none, cover = Disposition.default, Disposition(0), Disposition.attached_pic
    cases: dict[str, tuple[int, list[Stream]]] = {
        "preview first": (1, [("mpeg4", small, 12, None), ("libx264", large, 12, None)]),
        "preview last": (0, [("mpeg4", large, 12, None), ("libx264", small, 12, None)]),
        "thumbnail of one frame first": (1, [("mjpeg", small, 1, None), ("libx264", large, 12, None)]),
        "default though smaller": (1, [("libx264", large, 12, none), ("libx264", small, 12, default)]),
        "two defaults": (1, [("libx264", small, 12, default), ("libx264", large, 12, default)]),
        "equal": (0, [("libx264", small, 12, default), ("libx264", small, 12, default)]),
        "sound first": (1, [SOUND, ("libx264", small, 12, None)]),
        "large cover first": (1, [("mjpeg", (512, 512), 1, cover), ("libx264", small, 12, default)]),
        "no packets": (1, [("libx264", large, 0, default), ("libx264", small, 12, default)]),
    }
    for kind, (right, streams) in cases.items():
        path = write_streams(tmp_path / ("x.mp4" if "cover" in kind else "x.mkv"), *streams)
        assert chosen(path) == ({right}, 12), kind


def test_file_whose_only_pictures_are_covers_is_a_data_error(tmp_path: Path) -> None:
    cover = Disposition.attached_pic
    for name, codec in (("mjpeg.mp4", "mjpeg"), ("png.mp4", "png")):
        path = write_streams(tmp_path / name, SOUND, (codec, (64, 64), 1, cover))
        for read in (decode_video, lambda path: sample_frames(path, 4)):
            with pytest.raises(DataError, match=rf"no video stream in .*{name}: .*cover"):
                read(path)
    with pytest.raises(DataError, match="no video stream in .*x.m4a$"):
        sample_frames(write_streams(tmp_path / "x.m4a", SOUND), 4)
