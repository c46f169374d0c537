"""A path is the name of a file, whatever FFmpeg would make of it; the bytes of a video refer to no other file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from framefold.data.video.codec import decode_video, encode_video
from framefold.data.video.frame_reader import frames_at, sample_frames
from framefold.errors import DataError

# Names that FFmpeg would take for a protocol, a numbered sequence of images, a pattern, standard input or an option.
ODD_NAMES = (
    "2026-01-01T12:00:00.mp4",
    "Scene:1.mp4",
    "file:x.mp4",
    "http:x.mp4",
    "concat:x.mp4",
    "concat:x.mp4|x.mp4",
    "subfile,,start,0,end,100,,:x.mp4",
    "data:video,mp4",
    "cache:x.mp4",
    "crypto:x.mp4",
    "async:x.mp4",
    "tee:x.mp4",
    "pipe:0",
    "pipe:",
    "-",
    "-i",
    "frame%03d.mp4",
    "exp[1]{a,b}*?.mp4",
    "a::b.mp4",
    "100% #1.mp4",
    os.fsdecode(b"latin-\xe9.mp4"),
)


@pytest.fixture(scope="module")
def clip() -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    return encode_video(frames, np.arange(6) / 2)


@pytest.fixture
def folder(clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a video ``x.mp4``."""
    (tmp_path / "x.mp4").write_bytes(clip)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_that_look_like_addresses_or_patterns_are_names_of_files(folder):
    for name in ODD_NAMES:
        os.link("x.mp4", name)
        for path in (name, folder / name):
            assert sample_frames(path, 4).total == len(decode_video(path)[0]) == 6, ascii(path)
            assert len(list(frames_at(path, lambda duration: [0, duration / 2]))) == 2, ascii(path)


def test_no_protocol_is_reachable_through_a_name_without_a_file(folder):
    (folder / "ab.ts").write_bytes(b"\x47" * 376)
    for name in ("concat:x.mp4|x.mp4", "file:x.mp4", "subfile,,start,0,end,9999,,:x.mp4", "pipe:0", "x%d.mp4"):
        for read in (lambda path: sample_frames(path, 4), decode_video, lambda path: next(frames_at(path, list))):
            with pytest.raises(DataError) as caught:
                read(name)
                pytest.fail(f"{name} is read")
            assert f"cannot decode {name}: there is no such file" in str(caught.value)
    with pytest.raises(DataError, match="download it first"):
        sample_frames("https://example.org/x.mp4", 4)
    with pytest.raises(DataError, match="it is a folder"):
        sample_frames(folder, 4)


def test_file_wins_over_a_numbered_sequence_of_images(folder):
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"p{number}.png")
    os.link("p2.png", "p%d.png")
    assert sample_frames("p%d.png", 4).total == 1


def test_bytes_of_a_script_open_no_other_file(folder):
    for script in ("ffconcat version 1.0\nfile x.mp4\n", f"ffconcat version 1.0\nfile 'file:{folder}/x.mp4'\n"):
        with pytest.raises(DataError, match="cannot decode"):
            decode_video(script.encode())
            pytest.fail(script)
