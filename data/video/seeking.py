"""Frames of ordinary files: times from the packets, without decoding, then each frame from the key frame before it.

Ordinary files have a time for every packet, in an order that decoders produce, and no damage where frames are
requested. :mod:`.in_order` reads the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from .clock import StreamClock, frame_length
from .main_stream import open_video
from .picture import FrameConverter

WITHOUT_KEYS = ("h261",)  # codecs whose packets all claim to be key frames, though none is


class FrameNotDecodedError(Exception):
    """The file is not ordinary: the decoder did not return a frame that the packets announced."""


@dataclass(frozen=True)
class PacketTable:
    """Frames that the packets of a file announce.

    Attributes:
        ticks: presentation time of every frame in units of the stream's time base, ascending.
        start: tick of the key frame from which a frame must be decoded, by tick of the frame.
        span: duration in ticks.
        clock: seconds per tick.
    """

    ticks: list[int]
    start: dict[int, int]
    span: int
    clock: Fraction


def read_packets(container: InputContainer, stream: VideoStream) -> PacketTable | None:
    """Read the times from the packets, without decoding; return None if the file is not an ordinary one."""
    if stream.codec_context.name in WITHOUT_KEYS:
        return None
    clock = StreamClock.of(container, stream)
    start: dict[int, int] = {}
    keys: list[int] = []
    lengths: dict[int, int] = {}
    decoding: int | None = None
    try:
        for packet in container.demux(stream):
            if packet.size == 0:  # end of the stream
                continue
            if packet.pts is None or packet.pts in lengths:
                return None
            if decoding is not None and packet.dts is not None and not 0 <= packet.dts - decoding <= clock.longest:
                return None  # the clock jumps
            decoding = decoding if packet.dts is None else packet.dts
            if packet.is_keyframe:
                keys.append(packet.pts)
            lengths[packet.pts] = packet.duration or 0
            # A frame that is shown before the last key frame depends on the key frame before that one.
            before = next((key for key in reversed(keys[-2:]) if key <= packet.pts), None)
            if before is None or keys[-2:] != sorted(keys[-2:]):
                return None
            if not packet.is_discard:
                start[packet.pts] = before
    except av.FFmpegError:
        return None
    if not start:
        return None
    ticks = sorted(start)
    span = ticks[-1] - ticks[0] + frame_length(lengths[ticks[-1]], clock)
    return PacketTable(ticks, start, span, clock.time_base)


class SeekingReader:
    """Decodes requested frames only, from the key frame before each.

    Args:
        name: path of the file.
        table: of its packets.
    """

    def __init__(self, name: str, table: PacketTable) -> None:
        self.name, self.table = name, table
        self.ticks, self.span, self.clock, self.total = table.ticks, table.span, table.clock, len(table.ticks)

    def available(self, positions: Sequence[int]) -> list[int]:
        """Return the positions of the frames to show for these: the same ones."""
        return list(positions)

    def decode(self, positions: Sequence[int], converter: FrameConverter) -> Iterator[np.ndarray]:
        """Yield the frames at ascending positions of the file as pictures.

        Raises:
            FrameNotDecodedError: a frame, or one that it depends on, does not decode, or the file does not permit
                seeking.
        """
        try:
            with open_video(self.name) as (container, stream):
                yield from self._decode(container, stream, [self.ticks[position] for position in positions], converter)
        except av.FFmpegError as error:
            raise FrameNotDecodedError(str(error)) from error

    def _decode(
        self, container: InputContainer, stream: VideoStream, wanted: Sequence[int], converter: FrameConverter
    ) -> Iterator[np.ndarray]:
        """Seek if a key frame lies between one requested frame and the next."""
        start, size, at, yielded = self.table.start, (stream.height, stream.width), None, 0
        first = self.ticks[0]
        while yielded < len(wanted):
            if start[wanted[yielded]] > (first if at is None else at):
                container.seek(start[wanted[yielded]], stream=stream)
            decoded, at = set[int](), None
            for frame in container.decode(stream):
                at = self._tick(frame.pts, at, wanted[yielded], decoded)
                if at < wanted[yielded]:
                    continue
                if converter.size is None and (frame.height, frame.width) != size:
                    self._set_first_size(converter)
                yield converter(frame)
                yielded += 1
                if yielded == len(wanted) or start[wanted[yielded]] > at:
                    break
            else:
                raise FrameNotDecodedError(f"the video ends before tick {wanted[yielded]}")

    def _tick(self, at: int | None, last: int | None, wanted: int, decoded: set[int]) -> int:
        """Check the time of a frame, given that of the one before it, and all times since the file was seeked in."""
        if at is None or (last is not None and at <= last) or at > wanted:
            raise FrameNotDecodedError(f"there is no frame at tick {wanted}")
        decoded.add(at)
        key = self.table.start[wanted]
        if at == wanted and key in self.table.start and key not in decoded:
            raise FrameNotDecodedError(f"the key frame at tick {key} does not decode")
        return at

    def _set_first_size(self, converter: FrameConverter) -> None:
        with open_video(self.name) as (container, stream):
            converter.set_size(next(container.decode(stream)))
