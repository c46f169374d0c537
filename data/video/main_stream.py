"""Choosing the video of a file that has several video streams."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence

import av
import av.logging
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from framefold.errors import DataError

from .container import open_container

DEFAULT_BONUS = 5_000_000  # pixels by which another stream must exceed one that is marked as default, as in FFmpeg

PROBED_PACKETS = 1000  # in which a stream must have a packet, unless all streams are without any

Source = bytes | str | os.PathLike[str]


@contextlib.contextmanager
def open_video(source: Source, threads: bool = True) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its main video stream.

    Args:
        source: path or bytes of a file.
        threads: decode several frames at a time. Without threads, the decoder reports damage at the packet that has it.

    Raises:
        DataError: there is no such file, or it has no video stream.
        av.FFmpegError: it is not a video.
    """
    with open_container(source) as container:
        stream = main_stream(container, source)
        # A decoder is closed with Python's lock held, for which the log messages of its threads would wait forever.
        if threads and av.logging.get_level() is None:
            stream.thread_type = "AUTO"
        else:
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        yield container, stream


def main_stream(container: InputContainer, source: Source) -> VideoStream:
    """Return the video stream that FFmpeg would choose.

    That is the largest picture among the streams marked as default, unless another one is larger by
    :data:`DEFAULT_BONUS` pixels. Attached pictures, such as the cover of a song, are not video.

    Raises:
        DataError: there is no video stream, or none that can be decoded.
    """
    name = f"{len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not videos:
        cover = ": its only picture is an attached one, such as a cover" if container.streams.video else ""
        raise DataError(f"no video stream in {name}{cover}")
    streams = [stream for stream in videos if stream.codec_context is not None]
    if not streams:
        raise DataError(f"no video stream in {name} can be decoded: this FFmpeg has no decoder for it")
    if len(streams) == 1:
        return streams[0]
    present = _streams_with_packets(source, streams)
    return max(streams, key=lambda stream: (stream.index in present, _score(stream)))


def _score(stream: VideoStream) -> int:
    return stream.width * stream.height + DEFAULT_BONUS * bool(stream.disposition & Disposition.default)


def _streams_with_packets(source: Source, streams: Sequence[VideoStream]) -> set[int]:
    """Return the indices of the streams that have packets near the start of the file; the container is left alone."""
    wanted, present = {stream.index for stream in streams}, set[int]()
    with open_container(source) as container, contextlib.suppress(av.FFmpegError):
        packets = container.demux([container.streams[index] for index in sorted(wanted)])
        for packet in itertools.islice(packets, PROBED_PACKETS):
            if packet.size:
                present.add(packet.stream_index)
            if present == wanted:
                break
    return present
