"""Golden files of VQToken: clusters from given seeds, adaptive K, queries, and the decoder layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from framefold.adapters.reference import vqtoken
from tests.support.golden_cases import golden_cases

ATOL = 1e-5
LOOSE = 1e-4
TIE = 1e-3  # tokens at a smaller distance count as copies, whose clusters rounding decides


def check(data: Any) -> None:
    """Check a file of whole runs, of clusters and K, or of distortions alone."""
    if "distortions" in data:
        assert [vqtoken.elbow(row) for row in data["distortions"].tolist()] == data["compute_elbow"].tolist()
    elif "init_centroids" in data:
        check_run({name: torch.from_numpy(np.asarray(data[name])) for name in data})
    else:
        for _, params, arrays in golden_cases(data):
            check_adaptive(params, {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()})


def check_run(golden: dict[str, torch.Tensor]) -> None:
    """Check a run with a fixed K, from the tokens to the output."""
    x = golden["X"]
    tokens = vqtoken.unit_tokens(x.flatten(0, 1))
    _close(tokens, golden["X_normalised"], ATOL)
    labels, centroids = vqtoken.cluster_codebook(tokens, golden["init_centroids"])
    assert torch.equal(labels.view(x.shape[:2]), golden["labels"])
    _close(centroids, golden["final_centroids"], ATOL)
    codes = vqtoken.codebook(tokens, labels, len(centroids))
    _close(codes, golden["cluster_means"], ATOL)
    rows, memory = vqtoken.query_rows(labels.view(x.shape[:2]), codes)
    _close(rows, golden["query_rows_after_repeat"], 0)
    weights = {name.removeprefix("w."): value for name, value in golden.items() if name.startswith("w.")}
    heads = [count for count in (8, 4, 2, 1) if x.shape[2] % count == 0]  # the files do not tell how many there are
    errors = [float((vqtoken.decode(rows, memory, weights, count) - golden["out"]).abs().max()) for count in heads]
    assert min(errors) < ATOL, errors


def check_adaptive(params: dict[str, Any], golden: dict[str, torch.Tensor]) -> None:
    """Check seeds, K, labels and means; where tokens coincide, K and the number of empty clusters only."""
    x, k = golden["X"], int(golden["best_K"])
    tokens = vqtoken.unit_tokens(x.flatten(0, 1))
    distortions = golden.get("distortions_from_K12", torch.empty(0)).tolist()
    assert vqtoken.adaptive_k(params["method"], distortions) == k
    if distortions:
        assert vqtoken.elbow(distortions) == int(golden["elbow_raw"])
    labels, _ = vqtoken.cluster_codebook(tokens, tokens[golden["seeds_of_best_K"]])
    empty = torch.bincount(labels, minlength=k) == 0
    if float(torch.pdist(tokens).min()) < TIE:
        assert abs(int(empty.sum()) - int(golden["empty"].sum())) <= 1  # another order of sums may empty one more
        return
    assert torch.equal(labels.view(x.shape[:2]), golden["labels"]) and torch.equal(empty, golden["empty"].bool())
    _close(vqtoken.codebook(tokens, labels, k), golden["cluster_means"], LOOSE)
    if _farthest_first(tokens, k) != golden["seeds_of_best_K"].tolist():
        return  # two tokens are equally far within the rounding error
    for count, value in enumerate(distortions, vqtoken.LEAST_K):
        seeds = tokens[_farthest_first(tokens, count)]
        found = vqtoken.distortion(tokens, vqtoken.cluster_codebook(tokens, seeds)[0], count)
        assert abs(found - value) < LOOSE * max(1, value)


def _farthest_first(tokens: torch.Tensor, k: int) -> list[int]:
    """The rows from which the golden runs start."""
    rows = [0]
    while len(rows) < k:
        rows.append(int(torch.cdist(tokens, tokens[rows]).amin(1).argmax()))
    return rows


def _close(found: torch.Tensor, golden: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(found, golden, rtol=0, atol=atol)
