"""Tables of documents are those of the committed results, recomputed without a host."""

from __future__ import annotations

import re

from framefold.evaluation.committed.command import committed
from tests.support.guides.blocks import ROOT

FOLDERS = ("", "docs", "checkpoints")


def test_every_table_of_an_ablation_in_a_document_is_that_of_the_committed_results() -> None:
    documents: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for file in (ROOT / folder).glob("*.md" if not folder else "**/*.md"):
            for name in re.findall(r"^<!-- ablation (\S+):", file.read_text(), re.MULTILINE):
                documents.setdefault(name, set()).add(str(file))
    assert str(ROOT / "README.md") in documents["default"] and str(ROOT / "docs/results.md") in documents["default"]
    for name, files in documents.items():
        committed(str(ROOT / "checkpoints" / "ablation" / f"{name}.json"), fill=sorted(files), check=True)
