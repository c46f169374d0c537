"""An encoded video depends on its frames alone, not on what memory holds or on the CPU's instruction set."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from framefold.data.synthetic.generate import generate
from framefold.data.video import codec
from framefold.data.video.codec import encode_video
from tests.support.processes import python

# Before every call, memory that the encoder is about to be given is filled with numbers like those of motion vectors.
# The process is a new one, because its settings of malloc would stay: blocks of up to 32 MB from the heap, not trimmed.
FILLED_MEMORY = """
import ctypes
import numpy as np
from framefold.data.synthetic.generate import generate
from framefold.data.video.codec import encode_video

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, SIZE = -1, -3, 1 << 21
libc, random = ctypes.CDLL(None), np.random.default_rng(0)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
assert libc.mallopt(M_MMAP_THRESHOLD, 32 << 20) and libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
for crf, (height, width) in ((18, (32, 32)), (30, (33, 47)), (0, (33, 47))):
    video = generate(0, frames=48, size=64)
    frames, found = np.ascontiguousarray(video.frames[:, :height, :width]), set()
    for _ in range(12):
        block = libc.malloc(SIZE)
        ctypes.memmove(block, random.integers(-64, 64, SIZE // 2, dtype=np.int16).tobytes(), SIZE)
        libc.free(block)
        found.add(encode_video(frames, video.times, crf))
    print(crf, height, width, len(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the test fills memory through glibc's mallopt")
def test_bytes_do_not_depend_on_what_memory_holds():
    done = python("-c", FILLED_MEMORY)
    assert done.stdout.split("\n") == ["18 32 32 1", "30 33 47 1", "0 33 47 1", ""], done.stdout + done.stderr


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names instruction sets of x86-64")
def test_bytes_do_not_depend_on_the_instruction_set_of_the_cpu(monkeypatch: pytest.MonkeyPatch):
    video = generate(1, frames=24, size=64)
    for crf in (0, 1, 18, 51):
        found = {encode_video(video.frames, video.times, crf)}
        for name in ("LOSSY", "LOSSLESS"):
            options = getattr(codec, name)
            monkeypatch.setattr(codec, name, {**options, "x264-params": "asm=ssse3"})
        found.add(encode_video(video.frames, video.times, crf))
        monkeypatch.undo()
        assert len(found) == 1, crf


def test_equal_frames_give_equal_bytes():
    video = generate(3, frames=50)
    copy = np.asfortranarray(video.frames)  # the same frames, elsewhere and laid out in another way
    assert len({encode_video(frames, video.times) for frames in (video.frames, copy) for _ in range(4)}) == 1
