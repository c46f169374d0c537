"""Frames are upright, at the size of the first one, whatever the file says about its frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from framefold.data.video.codec import decode_video, encode_video
from framefold.data.video.frame_reader import frames_at, sample_frames
from tests.support.numbered_frames import numbers_shown, remux, write_numbered

ONE = 1 << 16

# Where the display matrix a b c d puts the pixels, as NumPy does it.
MATRICES: dict[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]] = {
    (1, 0, 0, 1): lambda x: x,
    (0, 1, -1, 0): lambda x: np.rot90(x, 3),
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, -1, 1, 0): lambda x: np.rot90(x, 1),
    (-1, 0, 0, 1): lambda x: x[:, ::-1],
    (1, 0, 0, -1): lambda x: x[::-1],
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1),
}


def test_all_eight_orientations_are_read_upright(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 32, 48, 3), np.uint8)
    raw, path = encode_video(frames, np.arange(3) / 10, crf=0), tmp_path / "x.mp4"
    at = raw.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and ids, layer and volume; then the matrix
    for matrix, display in MATRICES.items():
        for scale in (ONE, ONE // 2):
            a, b, c, d = ((value * scale).to_bytes(4, "big", signed=True) for value in matrix)
            path.write_bytes(raw[:at] + a + b + bytes(4) + c + d + bytes(4) + raw[at + 24 :])
            expected = np.stack([display(frame) for frame in frames])
            for found in (
                sample_frames(path, 3).frames,
                decode_video(path)[0],
                decode_video(path.read_bytes())[0],
                np.stack(list(frames_at(path, lambda end: [0.0, 0.1, 0.2]))),
            ):
                assert np.array_equal(found, expected), (matrix, scale)


def test_other_matrices_leave_the_frames_alone(tmp_path: Path) -> None:
    for a, b, c, d in [(56756, 32768, -32768, 56756), (ONE, ONE, 0, ONE), (0, 0, 0, 0)]:  # by 30 degrees, sheared, none
        matrix = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
        path = write_numbered(tmp_path / "x.mp4", count=4, matrix=matrix)
        assert numbers_shown(sample_frames(path, 4).frames) == [0, 1, 2, 3], matrix


def two_sizes(folder: Path, first: tuple[int, int], second: tuple[int, int], **options: str) -> Path:
    """Write 20 frames of one size and 20 of another one into one H.264 stream."""
    parts = [write_numbered(folder / f"{n}.h264", count=20, size=s, **options) for n, s in enumerate((first, second))]
    (folder / "x.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder / "x.h264"


def test_frames_have_the_size_of_the_first_one(tmp_path: Path) -> None:
    for first, second in [((32, 48), (64, 96)), ((64, 96), (32, 48)), ((64, 96), (96, 48))]:
        path = two_sizes(tmp_path, first, second)
        for frames in (sample_frames(path, 40).frames, decode_video(path)[0], sample_frames(path, 3).frames):
            assert frames.shape[1:3] == first
        assert numbers_shown(sample_frames(path, 40).frames) == [*range(20), *range(20)]
        assert numbers_shown(decode_video(path, [19, 20, 39])[0]) == [19, 0, 19]
        assert decode_video(path, [30])[0].shape[1:3] == first


def test_first_size_is_that_of_the_file_also_where_reading_starts_later(tmp_path: Path) -> None:
    source, path = two_sizes(tmp_path, (32, 48), (64, 96), g="5"), tmp_path / "x.ts"

    def number_packets(packet: av.Packet, number: int) -> None:
        packet.pts = packet.dts = number * 120_000

    remux(source, path, number_packets)
    for seconds in ([3.5], [0.0, 3.5]):
        assert {frame.shape for frame in frames_at(path, lambda end, s=seconds: s)} == {(32, 48, 3)}, seconds


@pytest.mark.parametrize("pix_fmts", [("yuv420p", "yuv444p"), ("yuv422p10le", "yuv420p"), ("gray", "yuv420p")])
def test_pixel_format_may_change(pix_fmts: tuple[str, str], tmp_path: Path) -> None:
    parts = [write_numbered(tmp_path / f"{n}.h264", count=9, pix_fmt=name) for n, name in enumerate(pix_fmts)]
    (tmp_path / "x.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    assert numbers_shown(sample_frames(tmp_path / "x.h264", 18).frames) == [*range(9), *range(9)]
    assert numbers_shown(decode_video(tmp_path / "x.h264")[0]) == [*range(9), *range(9)]


def test_large_frames_are_shrunk_with_their_proportions(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "x.mp4", count=8, size=(128, 192))
    assert sample_frames(path, 8, max_pixels=128 * 192).frames.shape == (8, 128, 192, 3)
    small = sample_frames(path, 8, max_pixels=32 * 48).frames
    assert small.shape == (8, 32, 48, 3) and numbers_shown(small) == [*range(8)]
    turned = write_numbered(tmp_path / "y.mp4", count=8, size=(128, 192), matrix=[0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30])
    assert sample_frames(turned, 8, max_pixels=32 * 48).frames.shape == (8, 48, 32, 3)
