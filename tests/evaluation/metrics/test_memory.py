"""Peak memory: of a process, of a GPU, of tensors."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from framefold.evaluation.metrics import memory
from framefold.evaluation.metrics.memory import ChildMemory, peak_memory, peak_tensor_bytes

CPU, MIB = torch.device("cpu"), 2**20


@pytest.mark.parametrize("source", ["kernel", "polling"])
def test_peak_memory_is_what_each_call_needs(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = 0
    real = memory._ResidentPoll._read

    def read(poll: object) -> None:
        nonlocal readings
        real(poll)  # type: ignore[arg-type]
        readings += 1

    def allocate(mebibytes: int) -> None:
        block = np.ones(mebibytes * MIB, np.uint8)
        seen, end = readings, time.monotonic() + 60
        while source == "polling" and readings < seen + 2:  # one that began after the allocation
            assert time.monotonic() < end, "nothing polls the memory"
            time.sleep(0.001)
        del block

    if source == "polling":
        monkeypatch.setattr(memory, "RESET", Path("/proc/none/clear_refs"))
        monkeypatch.setattr(memory._ResidentPoll, "_read", read)
    gc.collect()  # memory that is freed during a call hides growth
    sizes = [64, 64, 16, 16, 0]  # neither the memory of an earlier call nor its peak may hide or add anything
    grown = [peak_memory(partial(allocate, size), CPU) / MIB for size in sizes]
    assert grown == pytest.approx(sizes, abs=6)


def test_short_peaks_are_seen_where_the_kernel_reports_them() -> None:
    if not memory.RESET.exists():
        pytest.skip("the kernel has no high-water mark")
    grown = peak_memory(lambda: (np.ones(48 * MIB, np.uint8), None)[1], CPU)
    assert 40 * MIB < grown < 60 * MIB


def test_peak_memory_of_a_gpu_is_allocated_on_top_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name, value in {"synchronize": 0, "memory_allocated": 100, "reset_peak_memory_stats": 0}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, value=value: done.append(name) or value)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 150)
    assert peak_memory(lambda: done.append("run"), torch.device("cuda")) == 50
    assert done == ["synchronize", "memory_allocated", "reset_peak_memory_stats", "run"]


def test_memory_of_children_counts_only_new_ones() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as old:
        children = ChildMemory()
        assert children.resident_bytes() == 0
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as new:
            assert children.resident_bytes() > 0
            new.communicate(b"\n")
        old.communicate(b"\n")


def test_peak_tensor_bytes_counts_what_is_alive_at_once_without_inputs_and_views() -> None:
    x = torch.ones(1000)

    def chain() -> torch.Tensor:
        a = x.view(10, 100)[2:] + 1  # 800 numbers
        b = a * 2  # 1600
        del a
        c = b[:4].clone()  # 800 + 400
        del b
        return c + 1  # 800

    assert peak_tensor_bytes(chain, x) == 4 * 1600
    assert peak_tensor_bytes(lambda: x.view(-1), x) == 0
    assert peak_tensor_bytes(lambda: x.clone()) == 4000
