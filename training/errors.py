"""The errors this folder raises."""

from ..errors import FramefoldError


class HostError(FramefoldError, ValueError):
    """A host folder or host setting that cannot be used; the message says what to do."""
