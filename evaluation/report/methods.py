"""The compressor classes behind the methods of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import UNTRAINED_SUFFIX
from framefold.adapters.core.registry import compressor_class, list_compressors
from framefold.errors import UnknownCompressorError
from framefold.evaluation.results.result_files import Result, mean_of_known, stored_number
from framefold.evaluation.results.settings import EQUAL_FLOPS_SUFFIX, compressor_of


def baselines() -> list[str]:
    """Return the names of the compressors that serve as baselines, the strongest first."""
    ranks = {name: vars(compressor_class(name)).get("baseline_rank") for name in list_compressors()}
    ranked = [name for name, rank in ranks.items() if rank is not None]
    return sorted(ranked, key=lambda name: ranks[name], reverse=True)


@cache
def class_of(method: str) -> type[Compressor] | None:
    """Return the compressor class of a method; None for oracles and untrained ones, and if it is not installed."""
    method = method.removesuffix(EQUAL_FLOPS_SUFFIX)
    if method.endswith(UNTRAINED_SUFFIX):  # neither trained nor training-free
        return None
    try:
        return compressor_class(compressor_of(method))
    except UnknownCompressorError:
        return None


def is_trainable(method: str) -> bool:
    """Return whether a method is a trained compressor."""
    cls = class_of(method)
    return cls is not None and cls.trainable


def is_query_aware(method: str, results: Mapping[str, Sequence[Result]]) -> bool:
    """Return whether a method read the question, which may depend on its parameters.

    Args:
        method: name of the method.
        results: its results by budget; those of earlier versions do not say so, and the class decides.
    """
    read = mean_of_known(stored_number(one, "per_question") for ones in results.values() for one in ones)
    return bool(getattr(class_of(method), "query_aware", False)) if read is None else read > 0


def counterpart_of(method: str, results: Mapping[str, Sequence[Result]]) -> str | None:
    """Return the training-free method from which a trained one started; None if there is none, or it is unknown.

    Args:
        method: name of the trained method.
        results: its results by budget; without any, the default parameters decide.
    """
    cls, params = class_of(method), [one["settings"]["params"] for ones in results.values() for one in ones]
    return None if cls is None else cls.counterpart_of(params[0] if params else {})[0]
