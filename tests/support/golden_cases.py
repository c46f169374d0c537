"""Cases of a golden file whose keys are ``<case>__<array>``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np


def golden_cases(data: Any, failing: bool = False) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """Yield the name, the parameters and the other arrays of each case.

    Args:
        data: an open file.
        failing: yield also cases on which the release raises. They have no results, and their parameters an "error".
    """
    found: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for key in data:
        name, array = key.split("__", 1)
        found[name][array] = data[key]
    for name, arrays in found.items():
        params = json.loads(str(arrays.pop("params")))
        if failing or "error" not in params:
            yield name, params, arrays
