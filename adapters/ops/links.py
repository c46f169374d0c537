"""Trees of tokens that are linked to earlier tokens, most similar links first."""

from __future__ import annotations

import torch
from torch import Tensor


def link_groups(parent: Tensor, similarity: Tensor, links: int) -> Tensor:
    """Make the most similar links and return the trees that they form.

    Args:
        parent: (N,) int64 earlier token that each token may be linked to; -1 if it may not be linked.
        similarity: (N,) similarity with that token, never NaN; ignored where ``parent`` is -1.
        links: upper bound on the links that are made; ties go to the lower token.

    Returns:
        (N,) int64 group of each token. There are N groups minus one for each link, numbered in the order of their first
        tokens, which are the tokens without a link.
    """
    return tree_groups(strongest_links(parent, similarity, links))


def strongest_links(parent: Tensor, similarity: Tensor, links: int) -> Tensor:
    """Return ``parent`` with -1 for all tokens but the ``links`` most similar ones; see :func:`link_groups`."""
    rows = (parent >= 0).nonzero()[:, 0]
    order = torch.sort(similarity.detach()[rows], descending=True, stable=True).indices[: max(links, 0)]
    made = torch.full_like(parent, -1)
    made[rows[order]] = parent[rows[order]]
    return made


def tree_groups(parent: Tensor) -> Tensor:
    """Return the (N,) int64 tree of each token, numbered in the order of the roots.

    Args:
        parent: (N,) int64 parent of each token, less than its own number; -1 for a root.
    """
    return ((parent < 0).cumsum(0) - 1)[tree_roots(parent)]


def tree_roots(parent: Tensor) -> Tensor:
    """Return the (N,) int64 root of the tree of each token; see :func:`tree_groups`."""
    root = torch.where(parent < 0, torch.arange(len(parent), device=parent.device), parent)
    while not torch.equal(above := root[root], root):  # the number of rounds is the logarithm of the longest path
        root = above
    return root
