"""PEFT's ``adapter_names=``: each prompt of a batch with the compressor of its own adapter."""

from __future__ import annotations

import functools
from typing import Any

from framefold.errors import InputError


class RowCompressors:
    """The copies of a compressor that PEFT trained with several adapters, one for each row of a batch.

    PEFT splits the input of a module in ``modules_to_save`` by row, which is a batch for the layers that it knows. The
    input of a compressor is one video.

    Args:
        wrapper: PEFT's wrapper of the compressor.
        names: name of the adapter of each row, or of each beam of each row; "__base__" for none.
    """

    def __init__(self, wrapper: Any, names: list[str]) -> None:
        self.wrapper, self.names = wrapper, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapper.original_module, name)

    def of_row(self, row: int, rows: int) -> Any:
        """Return the compressor of a row of a batch.

        Raises:
            InputError: there is not one name per row.
        """
        beams, rest = divmod(len(self.names), rows)
        if rest or not beams:
            raise InputError(f"adapter_names must have one name for each of the {rows} prompts, got {len(self.names)}")
        copies = {} if self.wrapper.disable_adapters else dict(self.wrapper.modules_to_save.items())
        return copies.get(self.names[row * beams], self.wrapper.original_module)


def by_adapter_names(compressor: Any) -> Any:
    """Return the compressors of the rows during a call with ``adapter_names``, and otherwise the compressor itself."""
    if not hasattr(compressor, "modules_to_save"):
        return compressor
    for hook in reversed(compressor._forward_pre_hooks.values()):  # PEFT passes the names by such hooks
        if isinstance(hook, functools.partial) and (names := hook.keywords.get("adapter_names")) is not None:
            return RowCompressors(compressor, list(names))
    return compressor
