"""Damage costs the damaged frames only, and files without seeking are read in order."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from framefold.data.video.codec import decode_video
from framefold.data.video.frame_reader import frames_at, sample_frames
from framefold.errors import DataError
from tests.support.numbered_frames import damage, numbered, numbers_shown, remux, write_numbered
from tests.support.processes import python

MIDPOINTS = [3, 11, 18, 26, 33, 41, 48, 56]  # of 8 intervals of 60 frames

FILES: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", {"x264-params": "keyint=10:scenecut=0:bframes=0"}),
    "b-frames.mp4": ("libx264", "yuv420p", {"x264-params": "keyint=10:scenecut=0:bframes=2"}),
    "b-frames.avi": ("libx264", "yuv420p", {"x264-params": "keyint=10:scenecut=0:bframes=2"}),
    "vp9.mp4": ("libvpx-vp9", "yuv420p", {"g": "10", "b": "0", "lag-in-frames": "0", "cpu-used": "8"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}),
    "png.mov": ("png", "rgb24", {}),
}


@contextmanager
def one_warning(text: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    assert len(caught) == 1 and text in str(caught[0].message), [str(warning.message) for warning in caught]


@pytest.mark.parametrize("name", FILES)
def test_nearest_good_frames_replace_damaged_ones(name: str, tmp_path: Path) -> None:
    codec, pix_fmt, options = FILES[name]
    whole = write_numbered(tmp_path / name, codec, pix_fmt=pix_fmt, **options).read_bytes()
    for packets in ([0], [26], [20], [59], [25, 26], range(20, 30), [0, 1, 2], [57, 58, 59]):
        if name.endswith("avi") and 0 in packets:
            continue  # FFmpeg needs the first packet of an AVI file to recognise the codec
        (tmp_path / name).write_bytes(whole)
        damage(tmp_path / name, *packets)
        with one_warning(f"{name} is damaged"):
            sample = sample_frames(tmp_path / name, 60)
        assert sample.total == 60 and sample.duration == pytest.approx(6, abs=0.01), packets
        shown = numbers_shown(sample.frames)
        assert np.abs(sample.times * 10 - shown).max() < (3 if name.endswith("avi") else 0.01), (packets, shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            few = sample_frames(tmp_path / name, 8)
        right = sum(min(abs(number - wanted) for number in numbers_shown(few.frames)) <= 1 for wanted in MIDPOINTS)
        assert right >= (7 if len(packets) <= 3 else 6), (packets, numbers_shown(few.frames))


def test_number_of_lost_frames_is_told_once(tmp_path: Path) -> None:
    for name, packets in (("mjpeg.avi", [7]), ("mjpeg.avi", [7, 8, 30]), ("h264.mp4", [29])):
        codec, pix_fmt, options = FILES[name]
        path = damage(write_numbered(tmp_path / name, codec, pix_fmt=pix_fmt, **options), *packets)
        with one_warning(f"{name} is damaged: {len(packets)} of its frames"):
            sample_frames(path, 60)
        with one_warning(f"{name} is damaged: {len(packets)} of its frames"):
            assert len(list(frames_at(path, lambda end: np.arange(0, end, 0.1)))) == 60


def test_frames_at_times_are_the_nearest_good_ones_within_a_tolerance(tmp_path: Path) -> None:
    codec, pix_fmt, options = FILES["mjpeg.avi"]
    path = damage(write_numbered(tmp_path / "x.avi", codec, pix_fmt=pix_fmt, **options), *range(20, 28))
    with one_warning("x.avi is damaged: 8 of its frames"):
        shown = numbers_shown(list(frames_at(path, lambda end: [1.9, 2.0, 2.3, 2.45, 2.7, 3.0])))
    assert shown == [19, 19, 19, 28, 28, 30]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert numbers_shown(list(frames_at(path, lambda end: [1.9, 2.0, 2.7], tolerance=0.15))) == [19, 19, 28]
        with pytest.raises(DataError, match=r"x.avi is damaged at 2.3 s: the nearest good frame is 0.4 s away"):
            list(frames_at(path, lambda end: [1.9, 2.3], tolerance=0.15))


def test_frames_that_depend_on_a_lost_key_frame_are_shown_only_if_nothing_else_is_near(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "x.mp4", **{"x264-params": "keyint=30:scenecut=0:bframes=0"})
    whole = path.read_bytes()
    damage(path, 30)
    with one_warning("x.mp4 is damaged"):
        assert set(numbers_shown(sample_frames(path, 60).frames)) == set(range(30))
    path.write_bytes(whole)
    damage(path, 35)  # no key frame follows: frames from a second later are shown as they are decoded
    with one_warning("x.mp4 is damaged"):
        assert len(sample_frames(path, 60).frames) > 45


def test_reading_damaged_video_does_not_hang_while_pyav_logs(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "x.mp4", **{"x264-params": "keyint=10:scenecut=0:bframes=2"})
    damage(path, 1, 2, 20)
    code = (
        "import sys, av, av.logging; av.logging.set_level(av.logging.PANIC)\n"
        "from framefold.data.video.frame_reader import sample_frames\n"
        "for count in 20 * (8, 60): sample_frames(sys.argv[1], count)"
    )
    assert python("-W", "ignore", "-c", code, str(path)).returncode == 0


def test_video_without_any_good_frame_is_a_data_error(tmp_path: Path) -> None:
    for name, (codec, pix_fmt, options) in FILES.items():
        path = write_numbered(tmp_path / name, codec, pix_fmt=pix_fmt, **options)
        damage(path, *range(60))
        for read in (lambda path: sample_frames(path, 4), lambda path: list(frames_at(path, lambda end: [0.0]))):
            with pytest.raises(DataError, match=name):
                read(path)


def test_file_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "x.mkv", **{"x264-params": "keyint=5:scenecut=0:bframes=2"})
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) * 2 // 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sample = sample_frames(path, 100)
    assert numbers_shown(sample.frames) == list(range(sample.total)) and 20 < sample.total < 50


def test_data_that_are_no_packets_add_nothing(tmp_path: Path) -> None:
    raw = write_numbered(tmp_path / "x.ivf", "libvpx", g="10").read_bytes()
    (tmp_path / "x.ivf").write_bytes(raw + raw)  # the second header is taken for a packet whose time is an eon later
    with one_warning("x.ivf is damaged"):
        sample = sample_frames(tmp_path / "x.ivf", 8)
    assert numbers_shown(sample.frames) == MIDPOINTS and sample.duration == pytest.approx(6)


def test_recording_that_begins_within_a_group_of_pictures(tmp_path: Path) -> None:
    for params in ("keyint=10:scenecut=0:bframes=2", "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"):
        for ending in ("ts", "mkv"):
            source = write_numbered(tmp_path / f"x.{ending}", **{"x264-params": params})
            for dropped in (4, 10):
                path = remux(source, tmp_path / f"y.{ending}", lambda packet, number, n=dropped: number >= n)
                with av.open(str(path)) as container:
                    expected = numbers_shown([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
                sample = sample_frames(path, 60)
                assert numbers_shown(sample.frames) == expected and sample.total == len(expected), (params, ending)
                assert expected[-1] == 59 and (np.diff(sample.times) > 0).all()


# ---- without seeking ------------------------------------------------------------------------------------------------


def pictures(kind: str, count: int = 60) -> bytes:
    out = io.BytesIO()
    for number in range(count):
        Image.fromarray(numbered(number)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind, ending", [("PNG", "pngs"), ("JPEG", "mjpeg"), ("JPEG", "jpegs"), ("BMP", "bmps")])
def test_pictures_one_after_the_other_are_read_in_order(kind: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(pictures(kind))
    sample = sample_frames(path, 8)
    assert (sample.total, numbers_shown(sample.frames)) == (60, MIDPOINTS)
    assert sample.duration == pytest.approx(60 / 25)
    assert numbers_shown(list(frames_at(path, lambda end: [0.0, 1.0, 2.0]))) == [0, 25, 50]


def test_pipes_are_read(tmp_path: Path) -> None:
    mp4 = write_numbered(tmp_path / "x.mp4", g="10").read_bytes()
    contents = {"x.pipe": mp4, "y.pipe": pictures("PNG"), "z.mjpeg": pictures("JPEG"), "w.pipe": b"text" * 99}
    for name, content in contents.items():
        os.mkfifo(tmp_path / name)
        writer = threading.Thread(target=(tmp_path / name).write_bytes, args=(content,), daemon=True)
        writer.start()
        if content.startswith(b"text"):
            with pytest.raises(DataError, match=name):
                sample_frames(tmp_path / name, 8)
        else:
            assert numbers_shown(sample_frames(tmp_path / name, 8).frames) == MIDPOINTS, name
        writer.join(60)
        assert not writer.is_alive()


def test_damaged_bytes_in_shards_are_still_a_data_error(tmp_path: Path) -> None:
    """Evidence refers to frames by number, and each of them has a time, so that none may be missing."""
    path = damage(write_numbered(tmp_path / "x.mp4", g="10", bf="0"), 26)
    with pytest.raises(DataError, match="cannot decode .* bytes"):
        decode_video(path.read_bytes())
