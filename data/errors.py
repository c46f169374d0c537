"""The error this folder raises."""


class DataError(ValueError):
    """Data that cannot be made, read or trusted; the message says what to change."""
