"""Frames and times survive encoding, and bad input is a DataError."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import decode_video, encode_video
from framefold.errors import DataError


def test_frames_and_times_survive_the_codec():
    for difficulty, (crf, largest_mean) in itertools.product(["easy", "hard"], [(0, 0.0), (18, 4.2), (23, 5.5)]):
        video = generate(0, frames=40, difficulty=difficulty)
        frames, times = decode_video(encode_video(video.frames, video.times, crf))
        assert frames.shape == video.frames.shape and frames.dtype == np.uint8
        np.testing.assert_array_equal(times, video.times)
        mean = np.abs(frames.astype(int) - video.frames).mean()  # of 255; the noise of the videos themselves is 4.0
        assert mean <= largest_mean, (difficulty, crf, mean)


def test_uneven_times_survive():
    times = np.array([0.0, 0.1, 0.7, 0.701, 9.5], np.float32)
    decoded = decode_video(encode_video(generate(0, frames=16).frames[:5], times))[1]
    np.testing.assert_allclose(decoded, times, atol=5e-4)


def test_damaged_bytes_are_a_data_error():
    truncated = encode_video(np.zeros((16, 32, 32, 3), np.uint8), np.arange(16))[:700]
    for data in (b"", b"no video", bytes(5000), truncated):
        with pytest.raises(DataError, match="cannot decode|no frame"):
            decode_video(data)
            pytest.fail(f"{data[:20]!r} is accepted")


def test_wrong_input_is_a_data_error():
    frames = generate(0, frames=16).frames
    for arguments, text in (
        ((frames.astype(np.float32), np.arange(16)), "frames must be uint8"),
        ((frames, np.arange(15)), "times must be 16 ascending seconds"),
        ((frames, np.zeros(16)), "times must be 16 ascending seconds"),
        ((frames, np.arange(16), 60), "crf must be between"),
    ):
        with pytest.raises(DataError, match=text):
            encode_video(*arguments)
            pytest.fail(f"no error: {text}")
    with pytest.raises(DataError, match="exist.mp4"):
        decode_video("/does/not/exist.mp4")
