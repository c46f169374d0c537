"""Elements of Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def collapsible(title: str, *blocks: str) -> str:
    """Return blocks that are hidden until the reader opens them."""
    return "\n\n".join([f"<details><summary>{title}</summary>", *blocks, "</details>"])
