"""The token width that the weights of a compressor are for."""

from __future__ import annotations

from framefold.errors import InputError


def matching_width(name: str, dim: int | None, width: int) -> int:
    """Return the token width of a compressor's weights, which is that of its first video unless it is given.

    Args:
        name: of the compressor, for the message.
        dim: width of the weights; None before the first video.
        width: of the tokens of a video.

    Raises:
        InputError: the weights are for tokens of another width.
    """
    if dim is not None and width != dim:
        raise InputError(f"{name} has weights for tokens of width {dim}, but the video has width {width}")
    return width
