"""Frames sampled from a file are those that decoding everything would give, without decoding everything."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framefold.data.video import frame_reader as module
from framefold.data.video.codec import decode, encode_video
from framefold.data.video.frame_reader import sample_frames
from framefold.errors import DataError

REGULAR = np.arange(96) / 25  # some middles fall on the very start of a frame


def noise(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    """(count, height, width, 3) frames of coarse noise, no two alike."""
    small = np.random.default_rng(0).integers(0, 255, (count, height // 8, width // 8, 3), np.uint8)
    return small.repeat(8, 1).repeat(8, 2)


def write(path: Path, times: np.ndarray, codec: str = "libx264", **options: str) -> Path:
    """A file as cameras write them: several groups of pictures, B-frames."""
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
    """Frames, times and duration after decode(): what is on screen at the middles of equal stretches."""
    frames, times = decode(path)
    times = times.astype(np.float64) - times[0]
    duration = sample_frames(path, 1).duration
    middles = (np.arange(count) + 0.5) * duration / count
    shown = np.unique([np.flatnonzero(times <= middle + 1e-5)[-1] for middle in middles])
    at = shown if count < len(times) else np.arange(len(times))
    return frames[at], times[at], duration


def frames_decoded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts the frames that the sampler takes out of a decoder from now on."""
    count, tick = [0], module._tick

    def counted(*args: object) -> int:
        count[0] += 1
        return tick(*args)

    monkeypatch.setattr(module, "_tick", counted)
    return lambda: count[0]


OPEN = {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"}
FILES = {
    "closed.mp4": {"x264-params": "keyint=8:bframes=2"},
    "open.mp4": OPEN,  # frames that are shown before a key frame, and hang on the one before it too
    "open.mkv": OPEN,
    "open.ts": OPEN,  # times do not start at 0
    "bare.h264": {"x264-params": "keyint=8:bframes=0"},  # no times at all
    "old.avi": {"g": "9", "bf": "2"},  # packets have no presentation times
}


@pytest.mark.parametrize("name", FILES)
def test_sampled_frames_are_those_of_decoding_everything(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, REGULAR, "mpeg4" if name.endswith("avi") else "libx264", **FILES[name])
    timed = not name.endswith("h264")
    for count in (1, 2, 3, 8, 13, 48, 95, 96, 200):
        sample = sample_frames(path, count)
        assert (sample.total, len(sample.times)) == (96, min(count, 96))
        if timed:
            frames, times, duration = by_decoding_everything(path, count)
            assert np.array_equal(sample.frames, frames)
            assert np.abs(sample.times - times).max() < 1e-3
    assert sample.duration == pytest.approx(96 / 25, abs=1e-3) and sample.fps == pytest.approx(25, rel=1e-3)
    assert sample.frames.dtype == np.uint8 and sample.times.dtype == np.float32


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(1).integers(5, 3000, 60)) / 1000
    path = write(tmp_path / "x.mp4", times, **{"x264-params": "keyint=10:bframes=2"})
    for count in (1, 7, 20):
        sample, (frames, expected, _) = sample_frames(path, count), by_decoding_everything(path, count)
        assert np.array_equal(sample.frames, frames)
        assert np.abs(sample.times - expected).max() < 1e-3


def test_a_picture_that_stands_through_several_middles_comes_once(tmp_path: Path) -> None:
    times = np.array([0, 0.1, 0.2, 10.0, 10.1, 10.2])
    (tmp_path / "x.mp4").write_bytes(encode_video(noise(6), times))
    sample = sample_frames(tmp_path / "x.mp4", 4)
    assert sample.times.tolist() == pytest.approx([0.2])
    assert sample.total == 6


@pytest.mark.parametrize("options", [{"x264-params": "keyint=10:scenecut=0:bframes=0"}, OPEN], ids=["closed", "open"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_only_what_leads_to_the_wanted_frames_is_decoded(
    suffix: str, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"x.{suffix}", np.arange(400) / 25, **options)
    count = frames_decoded(monkeypatch)
    assert len(sample_frames(path, 11).frames) == 11
    assert 11 <= count() <= 11 * 14


def test_only_wanted_frames_are_turned_into_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turned, upright = [], module._upright
    monkeypatch.setattr(module, "_upright", lambda pixels, degrees: turned.append(1) or upright(pixels, degrees))
    sample_frames(write(tmp_path / "x.avi", REGULAR, "mpeg4"), 3)
    assert len(turned) <= 2 * 3  # packets promise times, the decoder is asked; the second reading is from end to end


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mkv", 5 + REGULAR)
    assert decode(path)[1][0] == pytest.approx(5)
    sample = sample_frames(path, 96)
    assert sample.times[0] == 0 and sample.times[-1] == pytest.approx(95 / 25, abs=1e-3)
    assert sample.duration == pytest.approx(96 / 25, abs=2e-3)


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_file_that_was_held_sideways_comes_upright(matrix: tuple[int, ...], turns: int, tmp_path: Path) -> None:
    raw = encode_video(noise(3), REGULAR[:3], crf=0)
    at = raw.index(b"tkhd") + 4 + 4 + 20 + 16  # version and flags, times and ids, layer and volume: then the matrix
    a, b, c, d = ((value << 16).to_bytes(4, "big", signed=True) for value in matrix)
    none = bytes(4)
    (tmp_path / "x.mp4").write_bytes(raw[:at] + a + b + none + c + d + none + raw[at + 24 :])
    expected = np.rot90(noise(3), turns, axes=(1, 2))
    assert np.array_equal(sample_frames(tmp_path / "x.mp4", 3).frames, expected)


def test_one_frame_is_a_video(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(encode_video(noise(1), REGULAR[:1]))
    sample = sample_frames(tmp_path / "x.mp4", 8)
    assert sample.frames.shape == (1, 32, 48, 3) and sample.times.tolist() == [0] and sample.duration > 0


def audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("kind", ["missing", "text", "empty", "cut", "zeroed", "audio", "folder"])
def test_a_file_without_a_whole_video_is_a_data_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    whole = encode_video(noise(96), REGULAR)
    if kind == "audio":
        audio(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        start = whole.index(b"mdat")
        zeroed = whole[: start + 8] + bytes(len(whole) - start - 8)
        path.write_bytes(
            {"text": b"a film\n" * 99, "empty": b"", "cut": whole[: len(whole) // 2], "zeroed": zeroed}[kind]
        )
    with pytest.raises(DataError, match="x.mp4"):
        sample_frames(path, 4)


def test_a_damaged_place_between_the_wanted_frames_does_no_harm(tmp_path: Path) -> None:
    path = write(tmp_path / "x.mkv", REGULAR, **{"x264-params": "keyint=10:scenecut=0:bframes=0"})
    whole, raw = sample_frames(path, 2), bytearray(path.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 200] = bytes(200)
    path.write_bytes(bytes(raw))
    assert np.array_equal(sample_frames(path, 2).frames, whole.frames)


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 1"):
        sample_frames(tmp_path / "x.mp4", 0)


def test_a_frame_that_only_the_packets_know_of_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = write(tmp_path / "x.mp4", REGULAR, **{"x264-params": "keyint=8:bframes=0"}), module._read_packets

    def promising(container: object, stream: object) -> object:
        table = read(container, stream)  # type: ignore[arg-type]
        assert table is not None
        ticks = sorted([*table.ticks, *(tick + 1 for tick in table.ticks)])
        return module._Table(ticks, dict.fromkeys(ticks, ticks[0]) | table.start, table.span)

    expected = sample_frames(path, 7)
    monkeypatch.setattr(module, "_read_packets", promising)
    sample = sample_frames(path, 7)
    assert np.array_equal(sample.frames, expected.frames) and sample.total == 96
