"""How much memory tensor code takes beside its inputs: exact, and the same on every machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .timing import peak_memory, return_freed


class _Watch(TorchDispatchMode):
    """Adds up the storages that operations made and that are still alive, after every operation."""

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known, self.alive, self.peak = known, dict[int, tuple[StorageWeakRef, int]](), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return out


def peak_bytes(run: Callable[[], Any], *inputs: torch.Tensor) -> int:
    """Most bytes of tensors alive at once after any operation of ``run``, without those of the inputs.

    What an operation takes inside of itself and gives back is not seen.
    """
    with _Watch({tensor.untyped_storage()._cdata for tensor in inputs}) as watch:
        out = run()
    del out
    return watch.peak


STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """Peak memory of a call without disturbing it; :func:`peak_memory` where the kernel's mark cannot be read."""
    if device.type != "cpu":
        return peak_memory(run, device)
    return_freed()
    try:
        RESET.write_text("5")  # the mark falls to what is resident now
        before = _resident("VmRSS")
    except (OSError, LookupError):  # not Linux, or not allowed
        return peak_memory(run, device)
    run()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), flags=re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return 1024 * int(found[1])
