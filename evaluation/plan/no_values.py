"""Run code on tensors that have a shape, a dtype and no values, so that the size of a model does not matter.

Large tensors and everything that is computed from them have no values (torch's ``FakeTensor``). Small whole numbers,
masks and positions keep theirs, so that code that reads them (token ids, grids, kept columns) takes its usual path.
Where code reads a value that does not exist, it gets a plausible one: the ranking of scores becomes the order of the
tokens, and every number is finite.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

SMALL = 1 << 16  # elements of a tensor of numbers that is created with values

aten: Any = torch.ops.aten


class TooManyOperations(Exception):
    """A block has run more operations than it may."""


class NoValues(TorchDispatchMode):
    """In its block, large tensors and what is computed from them have no values.

    Attributes:
        operations: number of operations so far.
        most: number of operations after which :class:`TooManyOperations` is raised, such as in a loop that would end
            by values; None for no limit.
    """

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.operations = 0
        self.most: int | None = None

    def empty(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return a tensor without values."""
        with self._fake:
            return torch.empty(shape, dtype=dtype)

    def convert(self, module: nn.Module) -> None:
        """Replace the parameters and buffers of a module on the meta device by tensors without values, in place."""
        done: dict[int, Any] = {}  # tied weights stay tied

        def converted(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return torch.zeros(tensor.shape, dtype=tensor.dtype)
            if id(tensor) not in done:
                empty = self.empty(*tensor.shape, dtype=tensor.dtype)
                done[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if _is_parameter(tensor) else empty
            return done[id(tensor)]

        for part in module.modules():
            tensors: Any
            for tensors in (part._parameters, part._buffers):
                tensors.update({name: converted(value) for name, value in tensors.items() if value is not None})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operations += 1
        if self.most is not None and self.operations > self.most:
            raise TooManyOperations
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if not any(isinstance(one, FakeTensor) for one in tensors):
            return self._without_inputs(func, args, kwargs) if not tensors else func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            return _plausible_number(args[0].dtype)
        if func in _IN_PLACE_ON_VALUES and not isinstance(args[0], FakeTensor):
            return args[0]  # its values are arbitrary from here on
        if func in _INDEXED:
            args = (args[0], _places(args[1]), *args[2:])
        with self._fake:
            out = func(*args, **kwargs)
        if func._schema.is_mutable:
            return out
        return _with_whole_numbers(func, args, out)

    def _without_inputs(self, func: Any, args: Any, kwargs: Any) -> Any:
        with self._fake:
            shaped = func(*args, **kwargs)
        large = isinstance(shaped, Tensor) and shaped.is_floating_point() and shaped.numel() > SMALL
        return shaped if large else func(*args, **kwargs)


_IN_PLACE_ON_VALUES = {
    aten.copy_.default, aten.add_.Tensor, aten.mul_.Tensor, aten.index_put_.default, aten.scatter_.src,
    aten.scatter_add_.default, aten.index_add_.default, aten.masked_scatter.default,
}  # fmt: skip
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
_TRUE = {
    aten.ne.Scalar,
    aten.ne.Tensor,
    aten.isfinite.default,
    aten.eq.Tensor,
    aten.any.default,
    aten.any.dim,
    aten.any.dims,
}


def _places(indices: Any) -> list[Any]:
    """Replace masks with values by the places that they select, since how many they are decides the shape."""
    places: list[Any] = []
    for one in indices:
        mask = one is not None and one.dtype == torch.bool and not isinstance(one, FakeTensor)
        places += one.nonzero(as_tuple=True) if mask else [one]
    return places


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _plausible_number(dtype: torch.dtype) -> bool | float | int:
    if dtype == torch.bool:
        return True
    return 0.5 if dtype.is_floating_point else 0


def _with_whole_numbers(func: Any, args: Any, out: Any) -> Any:
    """Replace results that are whole numbers or masks by plausible ones with values."""

    def replaced(leaf: Any) -> Any:
        if not isinstance(leaf, FakeTensor) or leaf.is_floating_point() or leaf.is_complex():
            return leaf
        return _invented(func, args, leaf)

    return tree_map(replaced, out)


def _invented(func: Any, args: Any, shaped: Tensor) -> Tensor:
    shape = tuple(shaped.shape)
    if shaped.dtype == torch.bool:
        same = func is not aten.eq.Tensor or args[0] is args[1]  # x == x, as in isfinite
        return torch.full(shape, func in _TRUE and same)
    if func in (aten.topk.default, aten.sort.default, aten.sort.stable, aten.argsort.default):
        n, dim = _ranked(func, args)
        places = torch.arange(shape[dim]) * max(1, n // max(1, shape[dim])) if shape else torch.zeros(())
        view = [1] * len(shape)
        if shape:
            view[dim] = -1
        return places.view(view).expand(shape).to(shaped.dtype).contiguous()
    return torch.zeros(shape, dtype=shaped.dtype)


def _ranked(func: Any, args: Any) -> tuple[int, int]:
    """Return the number of ranked values and their dimension."""
    position = {aten.topk.default: 2, aten.sort.stable: 2}.get(func, 1)
    dim = args[position] if len(args) > position and isinstance(args[position], int) else -1
    return (args[0].shape[dim], dim) if args[0].ndim else (1, -1)
