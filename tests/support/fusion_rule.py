"""framefusion_in_llm, one token at a time, for tests of the rule and of hosts."""

from __future__ import annotations

import torch
from torch import Tensor


class FusionByTheRule:
    """The rule of ``framefusion_in_llm`` and a budget of k, for a video of frames of P tokens."""

    def __init__(self, layers: int, k: int, per_frame: int, threshold: float, least: float) -> None:
        self.layers, self.per_frame, self.threshold, self.least = layers, per_frame, threshold, least
        self.left, self.merging, self.done = layers * k, True, False

    def step(self, layer: int, states: Tensor, index: list[int], received: list[float]) -> dict[int, list[int]]:
        """Return the members of each token that stays; the keys are rows of the states, as the members are.

        Args:
            layer: number of the layer, from 0.
            states: one row per token that is left.
            index: original token of each row.
            received: attention of each row.
        """
        n, rows = len(index), range(len(index))
        if self.done:
            return {row: [row] for row in rows}
        self.left -= n
        behind = self.layers - layer - 1
        count = min(n, self.left // behind)
        if self.merging:
            before = {row: self.previous(row, index) for row in rows}
            similarity = {
                row: float(torch.cosine_similarity(states[row].double(), states[other].double(), dim=0))
                for row, other in before.items()
                if other is not None
            }
            similar = [row for row in similarity if similarity[row] >= self.threshold]
            if len(similar) >= n - count:
                self.done = True
                similar = sorted(similar, key=lambda row: -similarity[row])[: n - count]
            elif self.left < n - len(similar) + behind - 1:  # not another layer with all of them
                return self.prune(count, received)
            self.merging = len(similar) >= self.least * n
            return self.runs(rows, before, set(similar))
        return self.prune(count, received)

    def previous(self, row: int, index: list[int]) -> int | None:
        place = index[row] % self.per_frame
        return next((other for other in range(row - 1, -1, -1) if index[other] % self.per_frame == place), None)

    @staticmethod
    def runs(rows: range, before: dict[int, int | None], joined: set[int]) -> dict[int, list[int]]:
        members: dict[int, list[int]] = {}
        for row in rows:
            head = row
            while head in joined:
                head = before[head]  # type: ignore[assignment]
            members.setdefault(head, []).append(row)
        return members

    def prune(self, count: int, received: list[float]) -> dict[int, list[int]]:
        self.done = True
        best = sorted(range(len(received)), key=lambda row: -received[row])[:count]
        return {row: [row] for row in sorted(best)}
