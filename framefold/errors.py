"""The base of all errors that framefold raises on purpose."""


class FramefoldError(Exception):
    """Something that the message names was wrong, and the message says what to do; the command line shows one line."""
