"""Types of options of the command line."""

from __future__ import annotations

from typing_extensions import TypeAliasType

Budget = TypeAliasType("Budget", int | float)
"""A number of tokens or a share of them; a word is tried as an int first.

A name, since ``int | float | None`` may turn into another order: jsonargparse writes it as ``Optional[int | float]``,
and typing, which remembers unions without their order, answers with the ``Optional[float | int]`` that somebody asked
for before. Then 64 tokens would be a share of 64.0.
"""
