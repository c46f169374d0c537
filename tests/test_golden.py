"""Outputs of the authors' released code, from tests/golden or the folder named by FRAMEFOLD_GOLDEN.

The check is chosen by the prefix of the file's name; files of methods without a check are skipped by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import framefold
from framefold import VideoTokens
from framefold.adapters.graph import similarities

FOLDER = Path(os.environ.get("FRAMEFOLD_GOLDEN") or Path(__file__).parent / "golden")
FILES = sorted(FOLDER.glob("*.npz"))


def check_simdiff(data: Any) -> None:
    """Similarities, components and events of ST-SimDiff's graph; which tokens the release keeps is another variant."""
    params = json.loads(str(data["params"]))
    if params["right"] != params["bottom"]:
        pytest.skip("edges to the right and below are switched together here")
    x = torch.from_numpy(data["features"])
    sim = similarities(x)
    np.testing.assert_allclose(sim.temporal[1:], data["temporal_sim"][1:], atol=2e-6)
    np.testing.assert_allclose(sim.right[:, :, :-1], data["right_sim"][:, :, :-1], atol=2e-6)
    np.testing.assert_allclose(sim.bottom[:, :-1], data["bottom_sim"][:, :-1], atol=2e-6)
    compressor = framefold.build(
        "st_simdiff",
        tau_sim=params["tau_sim"],
        tau_event=params["tau_event"],
        temporal=params["temporal"],
        spatial=params["spatial"] and params["right"],
    )
    graph = compressor.graph(VideoTokens.from_grid(x))  # type: ignore[operator]
    events = data["temporal_sim"].reshape(-1) < params["tau_event"]
    events[: x.shape[1] * x.shape[2]] = False  # frame 0 has no predecessor
    np.testing.assert_array_equal(graph.turning.numpy(), events)
    if "component_id" not in data:  # the release stopped with an error (params["error_stage1"])
        return
    first = params["n_pre"]
    component = data["component_id"][first : first + graph.labels.numel()]  # text comes before and after
    alone = torch.bincount(graph.labels)[graph.labels] == 1
    np.testing.assert_array_equal(alone.numpy(), component < 0)
    _, ours = np.unique(graph.labels[~alone], return_inverse=True)
    _, theirs = np.unique(component[component >= 0], return_inverse=True)
    np.testing.assert_array_equal(_by_first(ours), _by_first(theirs))


def _by_first(labels: np.ndarray) -> np.ndarray:
    """Labels numbered by where they occur first."""
    names, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse] if len(names) else labels


CHECKS: dict[str, Callable[[Any], None]] = {"simdiff_": check_simdiff}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_golden(file: Path) -> None:
    for prefix, check in CHECKS.items():
        if file.name.startswith(prefix):
            with np.load(file) as data:
                return check(data)
    pytest.skip(f"no check for {file.name}")


def test_golden_files_are_there() -> None:
    assert FILES, f"no golden files in {FOLDER}"
