"""The error this folder raises."""

from ..errors import FramefoldError


class DataError(FramefoldError, ValueError):
    """Data that cannot be made, read or trusted; the message says what to change."""
