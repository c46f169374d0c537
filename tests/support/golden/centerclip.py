"""Golden files of CenterCLIP: k-medoids on their own, and whole segments by every algorithm that is reproducible."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference.centerclip import cluster_means, kmedoids, pool, spectral
from tests.support.cases import case
from tests.support.golden_cases import golden_cases

CONVERGED = 20  # rounds


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
    if not params["pre_norm"] and same_medoids(x, medoids, torch.from_numpy(arrays["medoids"]), params):
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
        expected = torch.from_numpy(arrays["medoid_in_segment"]).reshape(medoids.shape)
        if params["algorithm"] == "spectral":
            if not torch.equal(medoids, expected):
                assert has_pairs(assign)
                return
        elif not same_medoids(tokens, medoids, expected, params):
            return
    if params.get("aggregation") not in (None, "None"):
        expected = cluster_means(tokens, assign, clusters)
    else:
        expected = tokens.gather(1, medoids[..., None].expand(-1, -1, x.shape[-1]))
    expected = expected.reshape(out[:, :, 1:].shape)
    close = torch.allclose(expected, out[:, :, 1:], atol=1e-4, rtol=1e-4)
    assert close or "medoid_in_segment" not in arrays and has_pairs(assign)  # of pairs, rounding decides the clusters


def same_medoids(points: torch.Tensor, ours: torch.Tensor, expected: torch.Tensor, params: dict[str, Any]) -> bool:
    """Whether medoids are equal; if not, there must be a cluster of two, of which rounding decides the medoid.

    Then the expected ones must be the best of their clusters.
    """
    if torch.equal(ours, expected):
        return True
    x = points.double()
    unit = torch.nn.functional.normalize(x, dim=-1)
    distance = torch.cdist(x, x) if params["distance"] == "euclidean" else 1 - unit @ unit.mT
    rows = torch.arange(x.shape[1])
    distance[:, rows, rows] = -1.0
    assign = distance.gather(1, expected[..., None].expand(-1, -1, len(rows))).argmin(1)
    assert has_pairs(assign) or has_pairs(distance.gather(1, ours[..., None].expand(-1, -1, len(rows))).argmin(1))
    together = assign[:, :, None] == assign[:, None]
    total = (distance * together).sum(2)
    least = torch.where(together, total[:, None], torch.inf).amin(2).gather(1, expected)
    if params["iter_limit"] >= CONVERGED:
        torch.testing.assert_close(total.gather(1, expected), least, atol=1e-3, rtol=0)
    return False


def has_pairs(assign: torch.Tensor) -> bool:
    """Whether a cluster of a (B, n) assignment has two members."""
    return any(bool((torch.bincount(one) == 2).any()) for one in assign)


def knn(params: dict[str, Any]) -> int:
    """The number of neighbours that the release uses if a smaller one than 5 is configured."""
    configured = params.get("spectral_knn_k", 0)
    return configured if configured >= 5 else 5 * (params["T"] // params["Tn"]) + 5 * (params["N"] >= 100)
