"""Makes torchvision importable where only a CPU build of torch is installed.

PyPI's wheels of torchvision are built for CUDA. With a CPU build of torch their operators do not load, and the import
fails at two operators that torchvision refers to on import. The video processors of transformers use neither, so it
suffices to declare them. transformers looks for torchvision once, when it is imported. An import that could fail must
not be found there, so ``make setup`` installs the wheel in a folder of its own, ``<environment>/torchvision``.

``import framefold`` calls :func:`install`. ``make setup`` runs this file, which copies itself into the environment,
where a ``.pth`` file calls :func:`install` when Python starts; there, framefold need not be imported first. This module
imports neither framefold nor torch.
"""

from __future__ import annotations

import importlib.machinery
import os.path
import sys

TYPE_CHECKING = False  # that of typing, whose import would slow down every start of Python
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

NAME = "torchvision"

MISSING_OPERATORS = ("nms", "qnms")


def setup_folder() -> str:
    """Return the folder in which ``make setup`` installs torchvision."""
    return os.path.join(sys.prefix, NAME)


def install() -> None:
    """Add the folder of ``make setup`` to the import path, at the end, and declare missing operators on import."""
    if not any(getattr(finder, "finds", None) == NAME for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())
    folder = setup_folder()
    if folder not in sys.path and os.path.isfile(os.path.join(folder, NAME, "__init__.py")):
        sys.path.append(folder)


class TorchvisionFinder:
    """Import finder that replaces the loader of torchvision by :class:`TorchvisionLoader`."""

    finds = NAME

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Return the spec that the other finders return, with our loader; None for all other modules."""
        if name != NAME:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = TorchvisionLoader(spec.loader.name, spec.loader.path)
        return spec


class TorchvisionLoader(importlib.machinery.SourceFileLoader):
    """Executes torchvision, a second time with its operators declared if they do not load."""

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module.

        Raises:
            RuntimeError: torchvision does not load for another reason.
        """
        try:
            super().exec_module(module)
        except RuntimeError as error:  # operator torchvision::nms does not exist
            if f"{NAME}::" not in str(error):
                raise
            for name in [name for name in sys.modules if name.startswith(f"{NAME}.")]:
                del sys.modules[name]
            declare_operators()
            super().exec_module(module)


_LIBRARIES: list[Any] = []  # an operator disappears when its library is collected


def declare_operators() -> None:
    """Declare the operators of torchvision without an implementation."""
    import torch

    library = torch.library.Library(NAME, "DEF")
    for name in MISSING_OPERATORS:
        library.define(f"{name}(Tensor x) -> Tensor")
    _LIBRARIES.append(library)


def write_startup_file(packages: str) -> str:
    """Copy this file to a folder of packages, and write the ``.pth`` file there that calls :func:`install`."""
    import shutil

    module = f"_framefold_{NAME}"
    shutil.copyfile(__file__, os.path.join(packages, f"{module}.py"))
    startup = os.path.join(packages, f"framefold-{NAME}.pth")
    with open(startup, "w") as file:
        file.write(f"import {module}; {module}.install()\n")
    return startup


if __name__ == "__main__":
    import sysconfig

    print(f"setup: {write_startup_file(sysconfig.get_path('purelib'))} makes torchvision importable")
