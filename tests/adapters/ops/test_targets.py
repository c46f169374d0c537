"""Joining targets against loops over tokens."""

from __future__ import annotations

import torch

from framefold.adapters.ops.targets import nearest_targets, sum_joined
from tests.support.videos import noise


def test_each_token_joins_the_most_similar_target_of_its_part() -> None:
    x, part = noise(5, 3, 4), [0, 0, 1, 2, 2]
    targets = [torch.tensor([1, 4]), torch.tensor([], dtype=torch.long), torch.tensor([9, 14, 12])]
    join = nearest_targets(x, part, targets).tolist()
    flat, rows = x.flatten(0, 1), torch.cat(targets).tolist()
    for token, found in enumerate(join):
        own = targets[part[token // 3]].tolist()
        cosine = {row: float(torch.cosine_similarity(flat[token], flat[row], dim=0)) for row in own}
        assert (rows[found] if found >= 0 else None) == max(cosine, key=cosine.__getitem__, default=None)
    total, count = sum_joined(x, torch.tensor(join), 5)
    for number in range(5):
        members = [token for token, found in enumerate(join) if found == number]
        assert int(count[number]) == len(members)
        torch.testing.assert_close(total[number], flat[members].sum(0))
