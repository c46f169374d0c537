"""Typed errors. Each message states what was wrong and how to fix it.

Each error is a :class:`FramefoldError` and also the builtin error of its kind, such as ``ValueError``.
"""

from __future__ import annotations


class FramefoldError(Exception):
    """Base class of all errors that framefold raises on purpose; the command line prints them as one line."""


class InputError(FramefoldError, ValueError):
    """A video or query that cannot be compressed: NaN, empty, wrong number of dimensions, missing query and so on."""


class BudgetError(FramefoldError, ValueError):
    """A budget that is neither a ratio in (0, 1] nor a positive number of tokens, or that is not possible.

    Attributes:
        smallest: smallest possible budget, a ratio or a number of tokens; None if it is unknown.
    """

    def __init__(self, message: str, smallest: int | float | None = None) -> None:
        super().__init__(message)
        self.smallest = smallest


class ConfigError(FramefoldError, ValueError):
    """A parameter or configuration file with an unknown field, a value of the wrong type, or a value out of range."""


class UnknownCompressorError(FramefoldError, LookupError):
    """No compressor is registered under that name."""


class ContractError(FramefoldError, RuntimeError):
    """A compressor returned an invalid result, such as a wrong number of tokens: a bug in the compressor."""


class UnsupportedHostError(FramefoldError, TypeError):
    """The model belongs to no supported host family, or the installed transformers is too old for it."""


class AttachError(FramefoldError, RuntimeError):
    """A compressor is already attached to the host, or none is attached."""


class WrongHostError(AttachError):
    """The adapter was trained with another host; pass ``allow_other_host=True`` to use it anyway."""


class AdapterFileError(FramefoldError, ValueError):
    """An adapter folder is missing, damaged, or in a newer format."""


class HubError(FramefoldError, RuntimeError):
    """The Hub has no such adapter, refuses access, or cannot be reached."""


class MissingExtraError(FramefoldError, ImportError):
    """An optional dependency is not installed; the message contains the command that installs it."""


class DataError(FramefoldError, ValueError):
    """Data that cannot be generated, read or trusted."""


class HostError(FramefoldError, ValueError):
    """A host folder or host setting that cannot be used."""


class PromptError(FramefoldError, ValueError):
    """Questions or a chat template that do not allow one shared prompt prefix."""


class CheckpointError(FramefoldError, ValueError):
    """A checkpoint that is damaged or that this run cannot resume from."""


class ResultsError(FramefoldError, ValueError):
    """A results folder that is missing, empty or damaged."""


class EvalError(FramefoldError, ValueError):
    """An evaluation that cannot be run, or results of one that cannot be read."""


class ServingError(FramefoldError, ValueError):
    """A compressor, host, setting or version of the engine that cannot be served."""
