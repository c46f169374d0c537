"""The difference between the weights of two trainings, in a form that means the same on every processor."""

from __future__ import annotations

from collections.abc import Mapping

import torch

Weights = Mapping[str, torch.Tensor]


def relative_differences(start: Weights, expected: Weights, found: Weights) -> dict[str, float]:
    """Return the distance of two trainings' weights, relative to how far training moved them.

    An absolute bound on weights is no measure under Adam. Adam moves a weight by the learning rate even where the
    gradient is as small as its rounding error, so that the absolute difference depends on the processor. Relative to
    the movement, a learning rate that differs by 1 % makes a difference of 1e-2, and rounding one below 1e-5.

    Returns:
        The relative distance of every tensor, by name, and of all tensors together as "all".

    Raises:
        AssertionError: the names differ, or training did not move a tensor.
    """
    assert start.keys() == expected.keys() == found.keys()
    moved, apart = _distances(start, expected), _distances(expected, found)
    still = [name for name, value in moved.items() if not value]
    assert moved["all"] and not still, f"not trained: {still}"
    return {name: apart[name] / moved[name] for name in moved}


def _distances(one: Weights, other: Weights) -> dict[str, float]:
    tensors = {name: float(torch.dist(one[name].double(), other[name].double())) for name in one}
    return tensors | {"all": sum(value**2 for value in tensors.values()) ** 0.5}
