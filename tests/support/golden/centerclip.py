"""Golden files of CenterCLIP: k-medoids on their own, and whole segments by every algorithm that is reproducible."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.centerclip import cluster_means, kmedoids, pool, spectral
from tests.support.cases import case
from tests.support.golden_cases import golden_cases


def check(data: Any) -> None:
    """Check every case. With ``pre_norm``, all norms are 1 up to rounding, and rounding decides the first medoid."""
    for name, params, arrays in golden_cases(data):
        with case(name):
            if "medoids" in arrays:
                check_kmedoids(params, arrays)
            else:
                check_segments(params, arrays)


def settings_of(params: dict[str, Any]) -> dict[str, Any]:
    return {key: params[key] for key in ("distance", "pre_norm", "threshold", "iter_limit") if key in params}


def check_kmedoids(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    x = torch.from_numpy(arrays["features"])
    assign, medoids = kmedoids(x, params["K"], **settings_of(params))
    assert medoids.shape == arrays["medoids"].shape and bool((medoids.diff(dim=1) > 0).all())
    if not params["pre_norm"]:
        np.testing.assert_array_equal(medoids, arrays["medoids"])
        np.testing.assert_array_equal(assign, arrays["assign"])


def check_segments(params: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    x, clusters, segments = torch.from_numpy(arrays["features"]), params["K"], params["Tn"]
    cls, out = pool(torch.from_numpy(arrays["cls"]), segments), torch.from_numpy(arrays["out"])
    torch.testing.assert_close(cls, out[:, :, :1], atol=1e-4, rtol=1e-4)
    if params["algorithm"] == "pooling":
        torch.testing.assert_close(pool(x, segments), out[:, :, 1:], atol=1e-4, rtol=1e-4)
        return
    tokens = x.reshape(len(x) * segments, -1, x.shape[-1])
    if params["algorithm"] == "spectral":
        settings = settings_of(params)
        settings.pop("pre_norm", None)
        neighbours = knn(params) if params["spectral_graph"] == "KNN" else None
        assign, medoids = spectral(tokens, clusters, params["spectral_sigma"], neighbours, **settings)
    else:
        assign, medoids = kmedoids(tokens, clusters, **settings_of(params))
    if params.get("pre_norm") and params["algorithm"] != "spectral":
        return
    if "medoid_in_segment" in arrays:
        np.testing.assert_array_equal(medoids.reshape(len(x), segments, -1), arrays["medoid_in_segment"])
    if params.get("aggregation") not in (None, "None"):
        expected = cluster_means(tokens, assign, clusters)
    else:
        expected = tokens.gather(1, medoids[..., None].expand(-1, -1, x.shape[-1]))
    torch.testing.assert_close(expected.reshape(out[:, :, 1:].shape), out[:, :, 1:], atol=1e-4, rtol=1e-4)


def knn(params: dict[str, Any]) -> int:
    """The number of neighbours that the release uses if a smaller one than 5 is configured."""
    configured = params.get("spectral_knn_k", 0)
    return configured if configured >= 5 else 5 * (params["T"] // params["Tn"]) + 5 * (params["N"] >= 100)
