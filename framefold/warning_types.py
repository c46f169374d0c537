"""Types of warnings; the command line prints each as one line."""

from __future__ import annotations


class FramefoldWarning(UserWarning):
    """Base class of the warnings of framefold."""


class UntrainedCompressorWarning(FramefoldWarning):
    """A compressor with parameters to learn is used with its initial ones."""


class UnknownWordsWarning(FramefoldWarning):
    """A host is asked about words that it does not know."""
