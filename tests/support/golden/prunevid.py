"""Golden files of PruneVid: clusters of frames, windows, sizes and tokens of the release."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from framefold.adapters.reference.prunevid import prunevid_as_released, refine_runs
from framefold.errors import InputError
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

ATOL = 1e-4


def check(data: Any) -> None:
    for name, params, arrays in golden_cases(data, failing=True):
        with case(name):
            if "features" in arrays:
                check_merge(params, arrays)
            else:
                check_windows(arrays["clusters"].tolist(), arrays)


def check_windows(clusters: list[int], arrays: dict[str, np.ndarray]) -> None:
    runs = refine_runs(clusters)
    np.testing.assert_array_equal(np.repeat(*np.array(runs).T), arrays["refined"])
    np.testing.assert_array_equal([length for _, length in runs], arrays["windows"])


def check_merge(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Check clusters of frames, windows, sizes and tokens; in some cases the release raises."""
    x = torch.from_numpy(arrays["features"]).double()
    names = {"tau": "tau", "segment_ratio": "temporal_segment_ratio", "cluster_ratio": "cluster_ratio"}
    settings = {ours: params[theirs] for ours, theirs in names.items()}
    if "error" in params:
        with pytest.raises(InputError, match="prunevid"):
            prunevid_as_released(x, neighbours=params["k"], **settings)
        return
    out = prunevid_as_released(x, neighbours=params["k"], **settings)
    if not params["stable_under_official_noise"]:
        return
    np.testing.assert_array_equal(out.clusters, arrays["clusters"])
    check_windows(out.clusters.tolist(), arrays)
    np.testing.assert_array_equal(out.windows[:, 1] - out.windows[:, 0] + 1, arrays["windows"])
    np.testing.assert_array_equal(out.static_sizes, arrays["static_sizes"])
    np.testing.assert_array_equal(out.dynamic_sizes, arrays["dynamic_sizes"])
    assert len(out.groups.anchors) == params["count"] and out.groups.group.numel() == params["total"]
    np.testing.assert_allclose(out.groups.features(x.flatten(0, 1)), arrays["tokens"], rtol=0, atol=ATOL)
