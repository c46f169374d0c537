"""Modules that look like those of vLLM where the plug-in meets them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from framefold.adapters.serving.vllm.self_check import SEAMS


def install_fake_engine(monkeypatch: pytest.MonkeyPatch, version: str = "0.32.0") -> dict[str, ModuleType]:
    """Make ``import vllm`` find the fakes.

    Returns:
        The modules of hosts by name.
    """
    engine: Any = ModuleType("vllm")
    engine.__version__ = version
    monkeypatch.setitem(sys.modules, "vllm", engine)
    modules = {}
    for model_type, owners in SEAMS.items():
        module = modules[model_type] = ModuleType(model_type)
        for owner, names in owners.items():
            holder: Any = type(owner, (), {}) if owner else module
            for name, parameters in names.items():
                setattr(holder, name, eval(f"lambda {', '.join(parameters.split())}: None"))
            if owner:
                setattr(module, owner, holder)
        monkeypatch.setitem(sys.modules, f"vllm.model_executor.models.{model_type}", module)
    return modules
