"""The head of a host on those columns whose logits are needed: its vocabulary is much wider than its states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def head_columns(model: Any, columns: Tensor, length: int) -> Iterator[None]:
    """Let a forward compute the logits of some columns only, others in each row.

    Args:
        model: of the host.
        columns: (R, A) int64, columns of the last ``length`` ones of each of R rows; the logits are (R, A, V).
        length: number of columns that are counted.
    """

    def select(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        states = args[0]
        chosen = (columns + states.shape[1] - length).to(states.device)
        return states.gather(1, chosen[..., None].expand(-1, -1, states.shape[-1])), *args[1:]

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
