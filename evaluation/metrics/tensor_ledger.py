"""Bytes of the tensors that are alive during a block, by the part of the work that created them.

Counted after every operation, so the result is exact, the same on every machine, and the same for tensors without
values. Memory that an operation allocates and frees internally is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorLedger(TorchDispatchMode):
    """Adds up the living storages that operations of the block have created.

    Args:
        known: tensors that are not counted, such as weights.

    Attributes:
        part: name of the part that new tensors belong to; may be changed at any time.
        peak: most bytes alive after any operation.
        peak_parts: bytes of each part at that moment.
        traffic: bytes that operations have read and written, if none of them is fused with another.
    """

    def __init__(self, known: Iterable[torch.Tensor] = (), part: str = "") -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.part, self.peak, self.peak_parts, self.traffic = part, 0, Counter[str](), 0
        self._alive: dict[int, tuple[StorageWeakRef, int, str]] = {}
        self._bound = 0  # of the bytes alive: those that have ended since the last look are still included

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        read = {tensor.untyped_storage()._cdata for tensor in inputs}
        if func._schema.is_mutable or any(tensor.untyped_storage()._cdata not in read for tensor in results):  # no view
            self.traffic += sum(tensor.nbytes for tensor in (*inputs, *results))
        for tensor in results:
            self._add(tensor)
        if self._bound > self.peak:
            self._look()
        return out

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.known and key not in self._alive:
            self._alive[key] = StorageWeakRef(storage), storage.nbytes(), self.part
            self._bound += storage.nbytes()

    def _look(self) -> None:
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        self._bound = sum(size for _, size, _ in self._alive.values())
        if self._bound > self.peak:
            self.peak, self.peak_parts = self._bound, Counter()
            for _, size, part in self._alive.values():
                self.peak_parts[part] += size

    def label(self, part: str, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors, which need not be new, to a part."""
        for tensor in tensors:
            self._add(tensor)
            key = tensor.untyped_storage()._cdata
            if key in self._alive:
                reference, size, _ = self._alive[key]
                self._alive[key] = reference, size, part

    def forget_peak(self) -> None:
        """Start the peak anew, from what is alive now."""
        self.peak = 0
        self._look()
