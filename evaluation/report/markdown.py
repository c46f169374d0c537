"""Pieces of Markdown that the report is made of."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join([line(*head), line(*["---"] * len(head)), *(line(*row) for row in rows)])


def line(*values: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(values)} |"


def details(title: str, *blocks: str) -> str:
    """What is folded away until somebody wants to see it."""
    return "\n\n".join([f"<details><summary>{title}</summary>", *blocks, "</details>"])
