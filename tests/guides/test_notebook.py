"""The notebook in docs runs from its first to its last cell, with a kernel of its own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.guides.blocks import ROOT, broken_links
from tests.support.limits import HANG
from tests.support.processes import needs_torchvision

NOTEBOOK = ROOT / "docs" / "first_hour.ipynb"
CLIPS = ROOT.parent / "shared" / "videos"


def test_the_notebook_is_small_without_outputs_and_with_links_that_lead_somewhere() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert NOTEBOOK.stat().st_size < 20_000 and code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    texts = "".join("".join(cell["source"]) for cell in code)
    assert broken_links(f"docs/{NOTEBOOK.name}") == []
    assert all(f"framefold.{name}(" in texts for name in ("attach", "answer", "show", "ablate"))


@needs_torchvision
@pytest.mark.timeout(2 * HANG)
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    checkout = tmp_path / "checkout"
    (checkout / "docs").mkdir(parents=True)
    (checkout / "checkpoints").symlink_to(ROOT / "checkpoints")
    if CLIPS.is_dir():
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "videos").symlink_to(CLIPS)
    shutil.copy(NOTEBOOK, checkout / "docs")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    settings = {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    settings |= {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter")}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(checkout / "docs" / NOTEBOOK.name, as_version=4)
    nbformat.validate(notebook)
    where = {"metadata": {"path": str(checkout / "docs")}}  # where Jupyter starts the kernel of a notebook in docs
    nbclient.NotebookClient(notebook, timeout=HANG, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    kinds = [set(output.get("data", {})) for output in outputs]
    assert "tokens of the prompt" in printed and "all tokens" in printed and "Interval(" in printed, printed
    assert sum("image/png" in kind for kind in kinds) == 1 + CLIPS.is_dir()
    assert any("| st_simdiff | " in _text(output, "text/markdown") for output in outputs)
    assert (checkout / "runs" / "first_hour" / "ablation" / "report.html").is_file()


def _text(output: Any, kind: str) -> str:
    return str(output.get("data", {}).get(kind, ""))
