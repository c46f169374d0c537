"""Whatever the times of a file are, its frames have ascending ones in their order, and none is lost."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from framefold.data.video.clock import FrameStamp, StreamClock, ascending_ticks
from framefold.data.video.codec import decode_video
from framefold.data.video.frame_reader import sample_frames
from tests.support.numbered_frames import numbers_shown, remux, write_numbered

MIDPOINTS = [3, 11, 18, 26, 33, 41, 48, 56]  # of 8 intervals of 60 frames


def frame_numbers(pts: Sequence[int | None], joined: bool = False, dts: Sequence[int] | None = None) -> list[float]:
    """Times that frames of 10 ticks get, in frames after the first one."""
    stamps = [FrameStamp(time, dts[n] if dts else None, 10) for n, time in enumerate(pts)]
    clock = StreamClock(Fraction(1, 100), Fraction(10), joined)
    ticks, span, second = ascending_ticks(stamps, clock)
    assert span * second == (ticks[-1] - ticks[0]) * second + Fraction(1, 10)
    return [float((tick - ticks[0]) * second * 10) for tick in ticks]


def test_ordinary_times_are_kept() -> None:
    for times in ([0, 10, 20], [-5, 3, 900, 901], [7], [0, 10, 5000, 5010]):
        assert frame_numbers(times) == [(time - times[0]) / 10 for time in times]


def test_times_that_jump_back_continue_at_the_end() -> None:
    sixty = [10 * number for number in range(60)]
    for second in (
        sixty,
        [time + 300 for time in sixty],
        [time - 4000 for time in sixty],
        [time + 5 for time in sixty],
    ):
        assert frame_numbers([*sixty, *second]) == list(range(120))
    assert frame_numbers([*sixty[:5], *sixty[:5], *sixty[:5]]) == list(range(15))  # shorter than any reordering
    assert frame_numbers([0, 10, 40, 50, -2000, -1990, -1950]) == [0, 1, 4, 5, 6, 7, 11]  # not at a constant rate


def test_times_that_jump_ahead_are_a_new_recording_only_in_formats_made_for_joining() -> None:
    assert frame_numbers([0, 10, 100_000, 100_010], joined=True) == [0, 1, 2, 3]
    assert frame_numbers([0, 10, 100_000, 100_010], joined=False) == [0, 1, 10_000, 10_001]
    assert frame_numbers([0, 10, 900], joined=True) == [0, 1, 90]


def test_missing_times_are_counted_at_the_mean_rate() -> None:
    for times in (
        [None] * 6,
        [None, None, 0, 10, 20, 30],
        [0, None, 20, None, 40, None],
        [0, 10, 20, None, None, None],
        [None, 0, None, 20, 30, None],
    ):
        assert frame_numbers(times) == list(range(6)), times


def test_times_that_step_back_a_little_are_sorted_or_counted() -> None:
    for times in (
        [0, 30, 10, 20, 60, 40, 50, 70],  # in the order of decoding
        [0, 10, 20, 50, 30, 40, 60, 70],  # two late ones
        [0, 0, 20, 20, 40, 40, 60, 60],  # twice
        [0, 10, 20, 30, 15, 25, 35, 45],  # the clock was set back
    ):
        assert frame_numbers(times) == list(range(8)), times
    assert frame_numbers([10, 30, 20, 60], dts=[20, 30, 40, 50]) == [0, 1, 2, 3]  # decoding times are better


def test_mean_rate_may_be_no_whole_number_of_ticks() -> None:
    clock = StreamClock(Fraction(1, 1000), Fraction(30000, 1001), joined=False)
    _, span, second = ascending_ticks([FrameStamp(None, None, 0)] * 3000, clock)
    assert span * second == pytest.approx(3000 * 1001 / 30000, abs=1e-6)


# ---- files ----------------------------------------------------------------------------------------------------------


def check(path: Path, numbers: Sequence[int], count: int = 60, duration: float = 6.0) -> None:
    sample = sample_frames(path, len(numbers))
    assert (sample.total, numbers_shown(sample.frames)) == (count, list(numbers)), path.name
    assert sample.duration == pytest.approx(duration, abs=0.05), path.name
    assert np.abs(sample.times - np.array(numbers) * duration / count).max() < 0.06, path.name
    frames, times = decode_video(path)
    assert len(frames) == count and (np.diff(times) > 0).all(), path.name


@pytest.mark.parametrize("codec, ending", [("libx264", "h264"), ("libx265", "hevc")])
def test_bare_streams_last_as_long_as_their_rate_says(codec: str, ending: str, tmp_path: Path) -> None:
    quiet = {"x265-params": "log-level=none:pools=none:frame-threads=1"} if codec == "libx265" else {}
    for rate in (5, 10, 60):
        path = write_numbered(tmp_path / f"x.{ending}", codec, rate=rate, size=(64, 96), **quiet)
        check(path, MIDPOINTS, duration=60 / rate)


def test_recordings_joined_end_to_end_are_read_completely(tmp_path: Path) -> None:
    options = {"g": "10", "bf": "2"}
    for ending, codec in (("ts", "libx264"), ("vob", "mpeg2video"), ("mpg", "mpeg2video"), ("ts", "mpeg2video")):
        rate = 25 if ending == "mpg" else 10
        first = write_numbered(tmp_path / f"a.{ending}", codec, count=40, rate=rate, **options)
        shifts = {"same": 0, "overlap": 20, "late": 3000} if ending == "ts" else {"same": 0}
        for kind, shift in shifts.items():
            ticks = [number + shift for number in range(20)]
            second = write_numbered(tmp_path / f"b.{ending}", codec, 20, rate, ticks=ticks, **options)
            path = tmp_path / f"{kind}.{ending}"
            for parts in ([first, second], [second, first]):
                path.write_bytes(b"".join(part.read_bytes() for part in parts))
                shown = [*range(40), *range(20)] if parts[0] == first else [*range(20), *range(40)]
                sample = sample_frames(path, 60)
                assert numbers_shown(sample.frames) == shown, path.name
                # FFmpeg gives the last frame of a part of .vob a time that is a few frames late.
                assert sample.duration == pytest.approx(60 / rate, abs=0.05 if ending == "ts" else 0.3), path.name
                assert (np.diff(sample.times) > 0).all() and sample.total == 60, path.name


def test_clocks_of_transport_streams_may_wrap(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "x.mp4", g="10", bf="2")

    def near_the_end(packet: av.Packet, number: int) -> None:
        shift = round((2**33 / 90000 - 3.0) / packet.time_base)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift

    check(remux(source, tmp_path / "x.ts", near_the_end), MIDPOINTS)


def test_files_with_times_in_the_order_of_decoding_are_read_in_that_of_display(tmp_path: Path) -> None:
    for codec in ("libx264", "mpeg4"):
        for options in ({"g": "10", "bf": "2"}, {"g": "250", "bf": "3"}):
            check(write_numbered(tmp_path / "x.avi", codec, **options), MIDPOINTS)


def test_frames_without_times_are_not_lost(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "x.mkv", g="10", bf="0")
    for shift in (1000, 3000):  # Matroska has no times before 0

        def earlier(packet: av.Packet, number: int, shift: int = shift) -> None:
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift

        check(remux(source, tmp_path / "y.mkv", earlier, avoid_negative_ts="disabled"), MIDPOINTS)


def test_a_clock_that_jumps_within_a_group_of_pictures(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "x.flv", "flv", g="250")
    for back in (300, 2000, 2500):
        raw = bytearray(source.read_bytes())
        with av.open(str(source)) as container:
            places = [packet.pos for packet in container.demux(container.streams.video[0]) if packet.size]
        for number, place in enumerate(places):  # a tag starts with type, size (3 bytes) and milliseconds (3 bytes)
            if number >= 30:
                raw[place + 4 : place + 7] = (100 * number - back).to_bytes(3, "big")
        path = tmp_path / "y.flv"
        path.write_bytes(bytes(raw))
        check(path, MIDPOINTS)
