"""Typed errors. Every message names what was wrong and what to do about it.

Each error is a :class:`FramefoldError` and the builtin error that fits, such as ``ValueError`` for bad values.
"""

from __future__ import annotations


class FramefoldError(Exception):
    """Something that the message names was wrong, and the message says what to do; the command line shows one line."""


class InputError(FramefoldError, ValueError):
    """The video or the query cannot be compressed (NaN, empty, wrong rank, missing query ...)."""


class BudgetError(FramefoldError, ValueError):
    """The budget is neither a ratio in (0, 1] nor a positive number of tokens."""


class ConfigError(FramefoldError, ValueError):
    """A parameter or a configuration file has an unknown field, a wrong type or a value out of range."""


class UnknownCompressorError(FramefoldError, LookupError):
    """No compressor of that name is registered."""


class ContractError(FramefoldError, RuntimeError):
    """A compressor broke the contract (wrong count, unsorted anchors ...): a bug in it, not in the input."""


class UnsupportedHostError(FramefoldError, TypeError):
    """The model is of no supported host family, or its transformers version is too old."""


class AttachError(FramefoldError, RuntimeError):
    """A compressor is attached already, or none is."""


class WrongHostError(AttachError):
    """The adapter was trained in another host; ``allow_other_host=True`` takes it all the same."""


class AdapterFileError(FramefoldError, ValueError):
    """An adapter folder is missing, damaged, or written by a newer format."""


class HubError(FramefoldError, RuntimeError):
    """The Hub has no such adapter, refuses, or cannot be reached; the message says what to do."""


class MissingExtraError(FramefoldError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""


class DataError(FramefoldError, ValueError):
    """Data that cannot be made, read or trusted; the message says what to change."""


class HostError(FramefoldError, ValueError):
    """A host folder or host setting that cannot be used; the message says what to do."""


class PromptError(FramefoldError, ValueError):
    """Questions or a chat template that one shared prefix cannot serve."""


class CheckpointError(FramefoldError, ValueError):
    """A checkpoint that is damaged, or that this run cannot go on from; the message says what to do."""


class ResultsError(FramefoldError, ValueError):
    """A results folder is missing, empty or damaged."""


class EvalError(FramefoldError, ValueError):
    """An evaluation cannot be made, or its results cannot be read."""
