"""Makes torchvision, which the video processors of transformers need, importable before transformers looks for it.

PyPI's wheels of torchvision are built for CUDA. With a CPU build of torch their operators do not load, and the import
fails at two operators that torchvision refers to on import. The processors use neither, so it suffices to declare them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import torch

from framefold.errors import MissingExtraError

MISSING_OPERATORS = ("nms", "qnms")

_LIBRARIES: list[torch.library.Library] = []  # an operator disappears when its library is collected


def find_torchvision() -> None:
    """Import torchvision, if necessary from the folder of ``make setup``, and declare operators that do not load.

    Call it before transformers is imported, which looks for torchvision only once.

    Raises:
        MissingExtraError: torchvision or Pillow is missing or does not load, or transformers was imported earlier.
    """
    if not _importable("PIL"):
        raise MissingExtraError("Pillow is not installed, which video processors need: pip install pillow")
    if not _importable("torchvision"):
        _add_setup_folder()
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:  # operator torchvision::nms does not exist
        if "torchvision::" not in str(error):
            raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error
        _import_again()
    except (ImportError, OSError) as error:
        raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error
    if "transformers" in sys.modules and not sys.modules["transformers"].utils.is_torchvision_available():
        raise MissingExtraError(
            "transformers was imported before torchvision was found, and looks for it only once: call"
            " framefold.training.frozen_host.torchvision.find_torchvision() before importing transformers"
        )


def check_torchvision() -> None:
    """Check that transformers has found torchvision.

    Raises:
        MissingExtraError: torchvision is missing, or was found after transformers was imported.
    """
    from transformers.utils import is_torchvision_available

    if not is_torchvision_available():
        raise MissingExtraError(f"torchvision is missing, which video processors need: {_advice()}")


def _importable(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # without an origin, it is a mere folder of that name


def _add_setup_folder() -> None:
    """Append the folder of ``make setup`` to the path, at the end, so that it hides no other package."""
    folder = Path(sys.prefix) / "torchvision"
    if not (folder / "torchvision" / "__init__.py").is_file():
        raise MissingExtraError(f"torchvision is not installed, which video processors need: {_advice()}")
    sys.path.append(str(folder))
    importlib.invalidate_caches()


def _import_again() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in MISSING_OPERATORS:
        library.define(f"{name}(Tensor x) -> Tensor")
    _LIBRARIES.append(library)
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(f"torchvision does not load ({error}); {_advice()}") from error


def _advice() -> str:
    """Return the command that installs the torchvision version for this torch."""
    minor = int(torch.__version__.split(".")[1]) + 15  # torch 2.13 goes with torchvision 0.28
    if torch.version.cuda or torch.version.hip:
        return f"pip install 'torchvision==0.{minor}.*'"
    # With a CPU build of torch, the wheel among the other packages would break 'import transformers'.
    return f"pip install --no-deps --target {Path(sys.prefix) / 'torchvision'} 'torchvision==0.{minor}.*'"
