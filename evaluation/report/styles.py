"""Colour, symbol and line of every method, the same in the plots of ``report.md`` and on the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Contrast of at least 3:1 with white, and of the second list with the page's dark background.
COLORS = ("#0072b2", "#c04a00", "#00805f", "#a8488a", "#8a6a00", "#1a8fc4", "#6a3fb5", "#4d5566")

DARK_COLORS = ("#5aaee8", "#ff8a4c", "#3fc79c", "#e58bc8", "#e0b93a", "#8fd3f5", "#b79bf5", "#b3bac9")

# Name on the page (plotly) -> name in matplotlib. Their number and that of the colours have no common factor.
SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "cross": "P",
    "star": "*",
    "x": "X",
    "pentagon": "p",
}

# Name on the page (plotly) -> name in matplotlib.
DASHES = {"solid": "-", "dash": "--", "dashdot": "-.", "dot": ":"}

KIND_DASH = {"trained": "solid", "training-free": "dash", "untrained": "dash", "oracle": "dashdot"}


@dataclass(frozen=True)
class Style:
    """Look of a method.

    Attributes:
        color: index into :data:`COLORS` and :data:`DARK_COLORS`.
        symbol: key of :data:`SYMBOLS`.
        dash: key of :data:`DASHES`.
    """

    color: int
    symbol: str
    dash: str


def method_styles(kinds: Mapping[str, str]) -> dict[str, Style]:
    """Return the style of each method; no two of up to 72 methods have the same colour and symbol.

    The style depends on the set of methods, not on their accuracies: solid lines are trained methods, dashed ones are
    training-free, and dash-dotted ones are oracles.

    Args:
        kinds: method -> its kind, see :meth:`.table.ResultTable.kind`.
    """
    symbols = list(SYMBOLS)
    return {
        method: Style(number % len(COLORS), symbols[number % len(symbols)], KIND_DASH[kinds[method]])
        for number, method in enumerate(sorted(kinds))
    }


def palette_css() -> str:
    """Return the CSS variables ``--c0`` and so on, for light and dark pages."""

    def variables(colors: Iterable[str]) -> str:
        return " ".join(f"--c{number}: {color};" for number, color in enumerate(colors))

    classes = " ".join(f".c{number} {{ color: var(--c{number}); }}" for number in range(len(COLORS)))
    dark = f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(DARK_COLORS)} }} }}"
    return f":root {{ {variables(COLORS)} }}\n{dark}\n{classes}\n"
