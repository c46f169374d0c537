"""Packages of other people with compressors, as files on ``sys.path``, with or without an entry point."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import torch
from torch import Tensor, nn

from framefold import Selector, VideoTokens


class {cls}(Selector):
    """Scores with a matrix of its own."""

    name = "{name}"
    trainable = True

    def __init__(self, budget: float | int = 0.25, *, width: int = 0) -> None:
        super().__init__(budget)
        self.width = width
        self.head = nn.Linear(width, 1, bias=False) if width else None

    def materialize(self, width, grid, device=None) -> None:
        if self.head is None:
            self.width, self.head = width, nn.Linear(width, 1, bias=False, device=device)

    def score(self, video: VideoTokens, query: Tensor | None) -> Tensor:
        return self.head(video.features.float())[:, 0]

    def compress(self, video: VideoTokens, k: int, query: Tensor | None):
        kept = super().compress(video, k, query)
        weight = torch.sigmoid(self.score(video, query))[kept.index, None]
        return kept.__class__(**{{**vars(kept), "features": kept.features * weight}})
'''


def write_package(folder: Path, package: str, name: str, cls: str = "Mine", source: str = SOURCE) -> str:
    """Write a package of one module, ``methods``, with a trainable compressor; return its class path."""
    module = folder / package / "methods.py"
    module.parent.mkdir(parents=True, exist_ok=True)
    (module.parent / "__init__.py").write_text("")
    module.write_text(source.format(name=name, cls=cls) if source is SOURCE else source)
    return f"{package}.methods.{cls}"


def declare(folder: Path, package: str, **entries: str) -> None:
    """Write the metadata of an installed package with entry points (name -> ``module:Class``)."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[framefold.compressors]", *lines, ""]))
