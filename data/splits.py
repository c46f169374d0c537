"""Names of the splits of generated data."""

from __future__ import annotations

SPLITS = {"train": 0, "val": 1, "test": 2}  # part of the random key, so splits are disjoint by construction
