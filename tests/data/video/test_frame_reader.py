"""Frames read from a file equal those of decoding the complete file, but only what is needed is decoded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framefold.data.video import frame_reader, picture, seeking
from framefold.data.video.codec import decode_video, encode_video
from framefold.data.video.frame_reader import frames_at, sample_frames
from framefold.errors import DataError
from tests.support.coloured_clips import frames_of, write_clip

REGULAR = np.arange(96) / 25  # some midpoints are exactly at the start of a frame


def noise(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Distinct frames of coarse noise, (count, height, width, 3)."""
    small = np.random.default_rng(0).integers(0, 255, (count, height // 8, width // 8, 3), np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def write(path: Path, times: np.ndarray, codec: str = "libx264", **options: str) -> Path:
    """Write a file as cameras do, with several groups of pictures and B-frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25 if codec == "mpeg4" else 1000)
        for pixels, time in zip(noise(len(times)), times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(time / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def by_decoding_everything(path: Path, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Frames, times and duration from decode_video(): what is on screen at the midpoints of equal intervals."""
    frames, times = decode_video(path)
    times = times.astype(np.float64) - times[0]
    duration = sample_frames(path, 1).duration
    midpoints = (np.arange(count) + 0.5) * duration / count
    shown = np.unique([np.flatnonzero(times <= midpoint + 1e-5)[-1] for midpoint in midpoints])
    chosen = shown if count < len(times) else np.arange(len(times))
    return frames[chosen], times[chosen], duration


def frames_decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the frames that the reader takes from a decoder from now on."""
    count, tick = [0], seeking.SeekingReader._tick

    def counted(*args: object) -> int:
        count[0] += 1
        return tick(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(seeking.SeekingReader, "_tick", counted)
    return lambda: count[0]


OPEN = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"}
FILES = {
    "closed.mp4": {"x264-params": "keyint=8:bframes=2"},
    "open.mp4": OPEN,  # frames that are shown before a key frame and depend on the one before it
    "open.mkv": OPEN,
    "open.ts": OPEN,  # times do not start at 0
    "bare.h264": {"x264-params": "keyint=8:bframes=0"},  # no times
    "old.avi": {"g": "9", "bf": "2"},  # packets have no presentation times
}


@pytest.mark.parametrize("name", FILES)
def test_sampled_frames_equal_those_of_decoding_everything(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, REGULAR, "mpeg4" if name.endswith("avi") else "libx264", **FILES[name])
    for count in (1, 2, 3, 8, 13, 48, 95, 96, 200):
        sample = sample_frames(path, count)
        assert (sample.total, len(sample.times)) == (96, min(count, 96))
        if not name.endswith("h264"):
            frames, times, duration = by_decoding_everything(path, count)
            assert np.array_equal(sample.frames, frames), count
            assert np.abs(sample.times - times).max() < 1e-3
    assert sample.duration == pytest.approx(96 / 25, abs=1e-3) and sample.fps == pytest.approx(25, rel=1e-3)
    assert sample.frames.dtype == np.uint8 and sample.times.dtype == np.float32


def test_variable_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(1).integers(5, 3000, 60)) / 1000
    path = write(tmp_path / "x.mp4", times, **{"x264-params": "keyint=10:bframes=2"})
    for count in (1, 7, 20):
        sample, (frames, expected, _) = sample_frames(path, count), by_decoding_everything(path, count)
        assert np.array_equal(sample.frames, frames)
        assert np.abs(sample.times - expected).max() < 1e-3


def test_frame_at_several_midpoints_is_returned_once(tmp_path: Path) -> None:
    times = np.array([0, 0.1, 0.2, 10.0, 10.1, 10.2])
    (tmp_path / "x.mp4").write_bytes(encode_video(noise(6), times))
    sample = sample_frames(tmp_path / "x.mp4", 4)
    assert sample.times.tolist() == pytest.approx([0.2])
    assert sample.total == 6


def test_only_frames_needed_for_the_requested_ones_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = {"x264-params": "keyint=10:scenecut=0:bframes=0"}
    count, before = frames_decoded(monkeypatch), 0
    for suffix, options in itertools.product(["mp4", "mkv"], [closed, OPEN]):
        path = write(tmp_path / f"x.{suffix}", np.arange(400) / 25, **options)
        assert len(sample_frames(path, 11).frames) == 11
        assert 11 <= count() - before <= 11 * 14, (suffix, options)
        before = count()


def test_only_requested_frames_are_converted_to_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned, upright = [], picture.apply_matrix
    monkeypatch.setattr(picture, "apply_matrix", lambda pixels, matrix: turned.append(1) or upright(pixels, matrix))
    sample_frames(write(tmp_path / "x.avi", REGULAR, "mpeg4"), 3)
    assert len(turned) <= 2 * 3  # the packets have wrong times, so the file is read a second time


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mkv", 5 + REGULAR)
    assert decode_video(path)[1][0] == pytest.approx(5)
    sample = sample_frames(path, 96)
    assert sample.times[0] == 0 and sample.times[-1] == pytest.approx(95 / 25, abs=1e-3)
    assert sample.duration == pytest.approx(96 / 25, abs=2e-3)


def test_video_of_one_frame(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(encode_video(noise(1), REGULAR[:1]))
    sample = sample_frames(tmp_path / "x.mp4", 8)
    assert sample.frames.shape == (1, 32, 48, 3) and sample.times.tolist() == [0] and sample.duration > 0


def write_audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_file_without_a_complete_video_is_a_data_error(tmp_path: Path) -> None:
    path, complete = tmp_path / "x.mp4", encode_video(noise(96), REGULAR)
    start = complete.index(b"mdat") + 8
    contents = {
        "text": b"a film\n" * 99,
        "empty": b"",
        "truncated": complete[: len(complete) // 2],
        "zeros": complete[:start] + bytes(len(complete) - start),
    }
    for kind in ("missing", *contents, "audio", "folder"):
        path.unlink(missing_ok=True)
        if kind == "audio":
            write_audio(path)
        elif kind == "folder":
            path.mkdir()
        elif kind != "missing":
            path.write_bytes(contents[kind])
        with pytest.raises(DataError, match="x.mp4"):
            sample_frames(path, 4)
            pytest.fail(f"{kind} is accepted")


def test_damage_between_requested_frames_does_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mkv", REGULAR, **{"x264-params": "keyint=10:scenecut=0:bframes=0"})
    expected, raw = sample_frames(path, 2), bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(raw))
    assert np.array_equal(sample_frames(path, 2).frames, expected.frames)


def test_zero_frames_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1"):
        sample_frames(tmp_path / "x.mp4", 0)


def test_frames_that_only_the_packets_announce_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, read = write(tmp_path / "x.mp4", REGULAR, **{"x264-params": "keyint=8:bframes=0"}), seeking.read_packets

    def announcing(container: object, stream: object) -> object:
        table = read(container, stream)  # type: ignore[arg-type]
        assert table is not None
        ticks = sorted([*table.ticks, *(tick + 1 for tick in table.ticks)])
        return replace(table, ticks=ticks, start=dict.fromkeys(ticks, ticks[0]) | table.start)

    expected = sample_frames(path, 7)
    monkeypatch.setattr(frame_reader, "read_packets", announcing)
    sample = sample_frames(path, 7)
    assert np.array_equal(sample.frames, expected.frames) and sample.total == 96


# ---- frames at given times -------------------------------------------------------------------------------------------


def test_frames_at_times_are_those_on_screen_then(tmp_path: Path) -> None:
    times = np.array([0, 0.1, 0.25, 0.5, 1.0, 1.6, 1.7])
    (tmp_path / "x.mp4").write_bytes(encode_video(frames_of(1, 7), times, crf=0))
    requested = [0, 0.05, 0.1, 0.4, 0.5, 0.9, 0.99, 1.0, 1.65, 1.7]
    durations = []
    shown = [int(f[0, 0, 0]) for f in frames_at(tmp_path / "x.mp4", lambda end: durations.append(end) or requested)]
    assert shown == [0, 0, 1, 2, 3, 3, 3, 4, 5, 6]
    (tmp_path / "y.mp4").write_bytes(encode_video(frames_of(1, 100), np.arange(100) / 25, crf=0))
    exact = [int(f[0, 0, 0]) for f in frames_at(tmp_path / "y.mp4", lambda end: np.arange(100) / 25)]
    assert exact == list(range(100))  # at exactly the time that a frame starts
    for wrong in ([-0.1], [durations[0]], [1.0, 0.5], [float("nan")]):
        with pytest.raises(DataError, match="s were requested"):
            list(frames_at(tmp_path / "x.mp4", lambda end, wrong=wrong: wrong))
    assert list(frames_at(tmp_path / "x.mp4", lambda end: [])) == []


def test_wrong_times_in_packets_do_not_change_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_clip(tmp_path / "x.mp4", 1, 24, 4)
    requested = [0.1, 1.1, 1.2, 2.6, 5.9]
    expected = [int(f[0, 0, 0]) for f in frames_at(tmp_path / "x.mp4", lambda end: requested)]
    assert expected == [0, 4, 4, 10, 23]
    real = seeking.read_packets

    def wrong_times(*where: object) -> object:
        table = real(*where)  # type: ignore[arg-type]
        assert table is not None
        ticks = [tick + (tick > 2 * 16_000) for tick in table.ticks]  # wrong only after some frames
        return replace(table, ticks=ticks, start={tick: min(ticks) for tick in ticks})

    monkeypatch.setattr(frame_reader, "read_packets", wrong_times)
    assert [int(f[0, 0, 0]) for f in frames_at(tmp_path / "x.mp4", lambda end: requested)] == expected
