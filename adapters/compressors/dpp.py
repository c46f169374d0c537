"""DPP: the most probable choice of a determinantal point process, in which similar tokens exclude each other.

Dimensions: N tokens of width D, k of them kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import Budget
from framefold.adapters.core.tokens import VideoTokens
from framefold.adapters.ops.max_min import copy_keys, first_copies
from framefold.adapters.ops.similarity import TINY, normalize, rescale_if_extreme
from framefold.errors import ConfigError

SMALLEST = 1e-30  # of qualities: its logarithm is finite

CANDIDATES = 768  # tokens that are updated after every pick


class DPP(Compressor):
    """Keeps the tokens that the greedy choice from a determinantal point process selects. Training-free.

    The kernel of tokens i and j is r_i r_j cos(x_i, x_j), where r is the quality of a token. The next token is always
    that by which the determinant of the kernel of the chosen tokens grows most: its quality is high, and its direction
    is far from the span of theirs. ``ridge`` * r_i^2 is added to the diagonal, so that more than D tokens can be
    chosen, and copies of a token, too. Tokens of quality 0 come last. Similarities are fp32; ties go to the lower
    index.

    Args:
        budget: retention ratio or tokens per video.
        quality: "uniform": r = 1; "norm": r is the length of a token.
        ridge: see above.

    Raises:
        ConfigError: an unknown quality, or a ridge outside [1e-5, 1].
    """

    name = "dpp"
    paper = "greedy DPP, arXiv 1709.05135"
    keeps = "tokens whose directions differ from each other"
    cost = "k N D products, most of them in blocks of picks, and k^2 D"
    growth = "quadratic"

    def __init__(
        self, budget: Budget = 0.25, *, quality: Literal["uniform", "norm"] = "uniform", ridge: float = 1e-3
    ) -> None:
        super().__init__(budget)
        self.quality, self.ridge = quality, ridge
        if quality not in ("uniform", "norm") or not 1e-5 <= ridge <= 1:
            raise ConfigError(
                f"dpp: quality must be 'uniform' or 'norm', and ridge in [1e-5, 1], got {quality!r} and {ridge}"
            )

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> VideoTokens:
        if k >= len(video):
            return video
        with torch.no_grad(), torch.autocast(video.features.device.type, enabled=False):
            x = rescale_if_extreme(video.features[None])[0].float()
            norm = torch.linalg.vector_norm(x, dim=-1)
            quality = norm if self.quality == "norm" else torch.ones_like(norm)
            rows = determinant_picks(normalize(x, TINY), quality, k, self.ridge)
        return video.keep(rows.sort().values)


def determinant_picks(unit: Tensor, quality: Tensor, k: int, ridge: float) -> Tensor:
    """Return the rows of the greedy choice of :class:`DPP`, in the order of the choice; ties go to the lower row.

    The gain of a token is r_i^2 (1 + ridge - sum over picks of (u_i . w)^2), where the vectors w are those of a
    Gram-Schmidt process with the ridge: no matrix of N x N or N x k numbers is needed. A gain never increases. So only
    the candidates, whose gains are highest, are updated after every pick, as long as the best of them exceeds the
    earlier gains of all others; then all tokens are updated, by one matrix product for all picks since.

    Args:
        unit: (N, D) fp32 rows of length 1, or 0.
        quality: (N,) r >= 0.
        k: number of rows, at most N.
        ridge: see :class:`DPP`.

    Returns:
        (k,) int64 distinct rows.
    """
    copy = first_copies(copy_keys(unit))
    gain = unit.any(dim=1).double() + ridge  # a zero vector adds only the ridge
    weight = quality.double().clamp_min(SMALLEST).square()
    tokens = Gains(unit, gain, weight, copy if len(copy.unique()) < len(copy) else None, ridge)
    basis, picks = unit.new_empty(k, unit.shape[1]), list[int]()
    while len(picks) < k:
        values, done = tokens.values(), len(picks)
        order = torch.sort(values, descending=True, stable=True).indices
        rows = order[:CANDIDATES].sort().values
        others = float(values[order[CANDIDATES]]) if len(order) > CANDIDATES else -torch.inf
        candidates, numbers = tokens.subset(rows), rows.tolist()
        while len(picks) < k:
            best, place = candidates.best()
            if len(picks) > done and best <= others:
                break
            n = len(picks)
            picks.append(numbers[place])
            basis[n] = direction(unit[picks[n]], basis[:n], candidates.gain_of(place))
            candidates.choose(place, basis[n])
        tokens.choose_all(picks[done:], basis[done : len(picks)])
    return torch.tensor(picks, device=unit.device)


@dataclass
class Gains:
    """The gains of C tokens; equal tokens share one of M vectors, so that their gains are equal to the last digit.

    Attributes:
        unit: (M, D) unit vectors.
        gain: (M,) fp64 gains without the quality, of a token of that direction that is not chosen yet.
        weight: (C,) fp64 r^2; -inf for chosen tokens.
        copy: (C,) vector of each token; None if they are the vectors.
        ridge: see :class:`DPP`.
    """

    unit: Tensor
    gain: Tensor
    weight: Tensor
    copy: Tensor | None
    ridge: float

    def values(self) -> Tensor:
        """Return the (C,) gains, -inf for chosen tokens."""
        return self.weight * (self.gain if self.copy is None else self.gain[self.copy])

    def best(self) -> tuple[float, int]:
        """Return the highest value, and the first token that has it."""
        values = self.values()
        highest = values.amax()
        return float(highest), int((values == highest).to(torch.uint8).argmax())

    def gain_of(self, place: int) -> float:
        """Return the gain of a token without its quality."""
        return float(self.gain[place if self.copy is None else self.copy[place]])

    def subset(self, rows: Tensor) -> Gains:
        """Return the gains of some tokens, to be updated on their own."""
        vectors, copy = (rows, None) if self.copy is None else torch.unique(self.copy[rows], return_inverse=True)
        return Gains(self.unit[vectors], self.gain[vectors], self.weight[rows], copy, self.ridge)

    def choose(self, place: int, vector: Tensor) -> None:
        """Account for the choice of a token, which added a vector w (D,)."""
        self.weight[place] = -torch.inf
        parts = self.unit @ vector
        self.gain.addcmul_(parts, parts, value=-1).clamp_(min=self.ridge)

    def choose_all(self, places: list[int], vectors: Tensor) -> None:
        """Account for several choices by one matrix product; ``vectors`` are (b, D)."""
        self.weight[places] = -torch.inf
        parts = torch.linalg.vector_norm(self.unit @ vectors.T, dim=1).double()
        self.gain = (self.gain - parts.square()).clamp_(min=self.ridge)


def direction(unit: Tensor, before: Tensor, gain: float) -> Tensor:
    """Return the vector w (D,) of a token, given the (n, D) vectors of the tokens chosen before it and its gain."""
    return torch.addmv(unit, before.T, before @ unit, alpha=-1).mul_(gain**-0.5)
