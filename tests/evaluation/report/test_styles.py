"""Styles of the methods, which plots and page share."""

from __future__ import annotations

from framefold.evaluation.report.styles import COLORS, DARK_COLORS, DASHES, SYMBOLS, method_styles


def test_methods_differ_in_colour_or_symbol_and_kinds_in_the_line() -> None:
    kinds = {f"method {number}": ("trained", "training-free", "oracle")[number % 3] for number in range(72)}
    styles = method_styles(kinds)
    assert len({(style.color, style.symbol) for style in styles.values()}) == 72
    assert {kinds[method]: style.dash for method, style in styles.items()} == {
        "trained": "solid",
        "training-free": "dash",
        "oracle": "dashdot",
    }
    assert all(style.symbol in SYMBOLS and style.dash in DASHES for style in styles.values())
    assert len(COLORS) == len(DARK_COLORS) > max(style.color for style in styles.values())


def test_style_does_not_depend_on_the_order_of_the_methods() -> None:
    kinds = {"b": "trained", "a": "training-free", "c": "oracle"}
    assert method_styles(kinds) == method_styles(dict(sorted(kinds.items())))
