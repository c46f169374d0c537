"""Sizes of the parameters of compressors: their limit, and the width of layers in front of hosts with wide tokens."""

from __future__ import annotations

from framefold.errors import ConfigError

MAX_SIZE = 2**16  # a config could otherwise request any amount of memory

BOTTLENECK_FROM = 1024  # token width from which layers have BOTTLENECK channels by default

BOTTLENECK = 512


def check_sizes(name: str, **sizes: int | None) -> None:
    """Check that each size is None or from 1 to MAX_SIZE.

    Args:
        name: of the compressor, for the message.
        sizes: values by name of the parameter.

    Raises:
        ConfigError: a size is out of range.
    """
    for key, value in sizes.items():
        if value is not None and not 1 <= value <= MAX_SIZE:
            raise ConfigError(f"{name}: {key} is out of range: {value}")


def inner_width(inner: int | None, width: int) -> int:
    """Return ``inner`` if it is given, else the width of the tokens below BOTTLENECK_FROM, else BOTTLENECK."""
    return inner or (width if width < BOTTLENECK_FROM else BOTTLENECK)
