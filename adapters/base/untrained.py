"""Warning about compressors that are used with their initial weights."""

from __future__ import annotations

import warnings

from framefold.warning_types import UntrainedCompressorWarning

from .compressor import Compressor

UNTRAINED_SUFFIX = " (untrained)"  # of the name of such a compressor in tables


def display_name(compressor: Compressor) -> str:
    """Return the name of a compressor for tables and titles."""
    return _name(type(compressor)) + (UNTRAINED_SUFFIX if compressor.is_untrained else "")


def warn_untrained(compressor: Compressor, stacklevel: int = 2) -> None:
    """Warn, once for each instance, if a compressor has parameters to learn that were never trained."""
    if not compressor.is_untrained or getattr(compressor, "_untrained_warned", False):
        return
    compressor._untrained_warned = True  # type: ignore[assignment]
    warnings.warn(untrained_text(compressor), UntrainedCompressorWarning, stacklevel + 1)


def untrained_text(compressor: Compressor | type[Compressor]) -> str:
    """Return what it means that a compressor, or one of a class, is untrained, and what to do."""
    effect = "its weights are random, and so is what it keeps"
    if compressor.counterpart is not None:
        effect = f"with its initial weights it computes what {compressor.counterpart} computes"
    return (
        f"{_name(compressor)} is UNTRAINED: {effect}. Use a trained adapter of it (its folder or its name on the Hub,"
        " in Python framefold.load), or train it first ('framefold fit')"
    )


def _name(compressor: Compressor | type[Compressor]) -> str:
    cls = compressor if isinstance(compressor, type) else type(compressor)
    return str(getattr(cls, "name", cls.__name__))  # a class without a name is not registered
