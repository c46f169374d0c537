"""Golden files of LITA: frame means, then the pooled tokens of four frames."""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch

from framefold.adapters.reference.slow_fast import lita_tokens


def check(data: Any) -> None:
    x = torch.from_numpy(data["tokens_t_s_d"])
    x = x.unflatten(1, (isqrt(x.shape[1]), -1))
    torch.testing.assert_close(lita_tokens(x), torch.from_numpy(data["out"]), rtol=0, atol=1e-5)
