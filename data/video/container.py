"""Opening video files and their bytes with PyAV.

FFmpeg takes more than names of files: protocols (``concat:``, ``http:``), image sequences (``frame%03d.png``) and
scripts that list other files. A path never reaches any of these, even if its name looks like one.
"""

from __future__ import annotations

import io
import os
import re

import av
from av.container import InputContainer

from framefold.errors import DataError

FILES_ONLY = "file,crypto,data"  # protocols that a playlist on disk may use; FFmpeg's own default for files

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)


def open_container(source: bytes | str | os.PathLike[str]) -> InputContainer:
    """Open a video for reading.

    Args:
        source: path of a file, which may have any name; or the bytes of a file, which cannot refer to other files.

    Raises:
        DataError: there is no such file.
        av.FFmpegError: it is not a video.
    """
    if isinstance(source, bytes):
        return av.open(io.BytesIO(source), "r", options={"protocol_whitelist": "none"})
    name = os.fspath(source)
    if not os.path.exists(name):
        remedy = ": download it first, videos are read from files" if URL.match(name) else ""
        raise DataError(f"cannot decode {name}: there is no such file{remedy}")
    if os.path.isdir(name):
        raise DataError(f"cannot decode {name}: it is a folder, give a video file")
    # The prefix makes FFmpeg take the rest of the name literally; "none" turns off numbered sequences of images.
    return av.open(f"file:{name}", "r", options={"protocol_whitelist": FILES_ONLY, "pattern_type": "none"})
