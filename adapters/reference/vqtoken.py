"""The released VQToken: k-means of unit tokens, its adaptive K, and the decoder layer over the codebook.

Unlike the release, seeds are given instead of being drawn at random (arXiv 2503.16980).
Dimensions: T frames of P tokens, N = T*P, D width, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_K = 12
TOLERANCE = 1e-4  # of the change of all centroids at which iteration stops
PREFIX = "transformer_decoder.layers.0."


def unit_tokens(x: Tensor) -> Tensor:
    """Return (N, D) tokens of length 1."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def cluster_codebook(tokens: Tensor, seeds: Tensor, rounds: int = 100) -> tuple[Tensor, Tensor]:
    """Cluster unit tokens by cosine.

    Args:
        tokens: (N, D) of length 1.
        seeds: (K, D) initial centroids.
        rounds: upper bound; iteration stops when the centroids hardly change.

    Returns:
        (N,) int64 labels, and the (K, D) centroids that gave them: means, not normalized, or the previous centroid of a
        cluster that has lost all its tokens.
    """
    centroids, directions = seeds.clone(), unit_tokens(tokens)  # normalized again, as released: rounding decides ties
    for _ in range(rounds):
        labels = (1 - directions @ unit_tokens(centroids).T).argmin(1)
        some = torch.bincount(labels, minlength=len(seeds)) > 0
        means = torch.where(some[:, None], codebook(tokens, labels, len(seeds)), centroids)
        if float(torch.linalg.vector_norm(means - centroids)) < TOLERANCE:
            break
        centroids = means
    return labels, centroids


def codebook(tokens: Tensor, labels: Tensor, k: int) -> Tensor:
    """Return the (K, D) means of the clusters; the row of an empty cluster is zero, and attended to nevertheless."""
    count = torch.bincount(labels, minlength=k).clamp_min(1)
    return torch.stack([tokens[labels == i].sum(0) for i in range(k)]) / count[:, None]


def distortion(tokens: Tensor, labels: Tensor, k: int) -> float:
    """Return the sum of the squared distances of the tokens to the means of their clusters."""
    return float((tokens - codebook(tokens, labels, k)[labels]).square().sum())


def elbow(distortions: Sequence[float]) -> int:
    """Return the released elbow: the position of the largest second difference in fp32, plus 2."""
    values = torch.tensor(distortions, dtype=torch.float32)
    return int(values.diff().diff().argmax()) + 2


def adaptive_k(method: Literal["elbow", "silhouette"], distortions: Sequence[float] = ()) -> int:
    """Return the number of clusters that the release chooses.

    Its elbow ignores that the first of the distortions is that of K = 12. Its silhouette depends on neither K nor the
    labels, so that the first K is the best one.

    Args:
        method: name in the release.
        distortions: for K = 12, 13, ... in turn.
    """
    return max(LEAST_K, elbow(distortions) + 2) if method == "elbow" else LEAST_K


def query_rows(labels: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of the queries and of the memory of the decoder.

    Args:
        labels: (T, P) labels; a query is the labels of a frame, as numbers.
        codes: (K, D) codebook.

    Returns:
        (K, P) queries that repeat the frames if T <= K; otherwise (T, P) queries, and T rows that repeat the codebook.
    """
    rows, count = labels.to(codes.dtype), len(codes)
    if len(rows) < count:
        rows = rows.repeat(count // len(rows) + 1, 1)[:count]
    elif len(rows) > count:
        codes = codes.repeat(len(rows) // count + 1, 1)[: len(rows)]
    return rows, codes


def decode(rows: Tensor, codes: Tensor, weights: Mapping[str, Tensor], heads: int = 8) -> Tensor:
    """Apply the learned part: a projection of the queries and a decoder layer with normalization after each block.

    Args:
        rows: (K, P) queries.
        codes: (K, D) codebook.
        weights: of the release, by name.
        heads: number of attention heads.
    """
    w = {name.removeprefix(PREFIX): value for name, value in weights.items()}

    def attend(block: str, queries: Tensor, memory: Tensor) -> Tensor:
        return F.multi_head_attention_forward(
            queries[:, None], memory[:, None], memory[:, None], codes.shape[1], heads,
            w[f"{block}.in_proj_weight"], w[f"{block}.in_proj_bias"], None, None, False, 0.0,
            w[f"{block}.out_proj.weight"], w[f"{block}.out_proj.bias"], training=False, need_weights=False,
        )[0][:, 0]  # fmt: skip

    def normalized(x: Tensor, place: int) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"norm{place}.weight"], w[f"norm{place}.bias"])

    x = F.linear(rows, w["to_q_proj.weight"], w["to_q_proj.bias"])
    x = normalized(x + attend("self_attn", x, x), 1)
    x = normalized(x + attend("multihead_attn", x, codes), 2)
    hidden = F.relu(F.linear(x, w["linear1.weight"], w["linear1.bias"]))
    return normalized(x + F.linear(hidden, w["linear2.weight"], w["linear2.bias"]), 3)
