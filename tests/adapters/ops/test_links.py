"""Links to earlier tokens and the trees that they form."""

from __future__ import annotations

import torch

from framefold.adapters.ops.links import link_groups, strongest_links, tree_groups
from tests.support.cases import case


def slow_groups(parent: list[int], similarity: list[float], links: int) -> list[int]:
    """Make one link after the other, and follow the links from each token."""
    allowed = [row for row in range(len(parent)) if parent[row] >= 0]
    made = sorted(allowed, key=lambda row: (-similarity[row], row))[:links]
    roots = []
    for row in range(len(parent)):
        while row in made:
            row = parent[row]
        roots.append(row)
    return [sorted(set(roots)).index(root) for root in roots]


def test_groups_are_the_trees_of_the_most_similar_links() -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 7, 40):
        rows = torch.arange(n)
        parent = (torch.rand(n, generator=generator) * (rows + 1)).long() - 1
        similarity = torch.randint(0, 5, (n,), generator=generator) / 4  # with ties
        for links in (0, 1, n // 2, n):
            with case(n, links):
                groups = link_groups(parent, similarity, links)
                assert groups.tolist() == slow_groups(parent.tolist(), similarity.tolist(), links)
                assert int(groups.max()) + 1 == n - min(links, int((parent >= 0).sum()))


def test_ties_go_to_the_lower_token() -> None:
    parent = torch.tensor([-1, 0, 1, -1, 3])
    assert strongest_links(parent, torch.ones(5), 2).tolist() == [-1, 0, 1, -1, -1]


def test_a_long_chain_is_one_group() -> None:
    parent = torch.arange(5000) - 1
    assert not tree_groups(parent).any()
