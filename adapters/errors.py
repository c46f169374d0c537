"""Typed errors. Every message names what was wrong and what to do about it."""

from ..errors import FramefoldError


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
    """The adapter was trained in another host; ``other_host=True`` takes it all the same."""


class AdapterFileError(FramefoldError, ValueError):
    """An adapter folder is missing, damaged, or written by a newer format."""


class HubError(FramefoldError, RuntimeError):
    """The Hub has no such adapter, refuses, or cannot be reached; the message says what to do."""


class MissingExtraError(FramefoldError, ImportError):
    """An optional dependency is not installed; the message holds the command that installs it."""
