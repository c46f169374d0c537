"""The page of an ablation: one HTML file with everything in it, which loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from framefold.errors import ResultsError
from framefold.files import replace_file

from .page_data import drill_data, page_data
from .table import Table

PAGE = "report.html"

# In this order they are one script.
SCRIPTS = ("core", "table", "plot", "plots", "frames", "drill", "page")

MOST = 5_000_000  # bytes of a page; videos are left out of the drill-down until it fits

_SPECIAL = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def write_page(results: Table, out: Path) -> Path:
    """Write ``report.html`` into the folder of the results, beside and renamed.

    Args:
        results: the table. out: folder.

    Returns:
        Path of the page.

    Raises:
        ResultsError: what a cell says of its answers or kept tokens is damaged; an older page stays.
        OSError: it cannot be written.
    """
    data = page_data(results, out.resolve().name)
    videos = max((cell["drill"] for cell in results.cells), default=0)
    page = render_page(data | drill_data(results, videos))
    while len(page) > MOST and videos > 1:
        videos //= 2
        page = render_page(data | drill_data(results, videos))
    replace_file(out / PAGE, lambda beside: beside.write_bytes(page))
    return out / PAGE


def render_page(data: dict[str, Any]) -> bytes:
    """The page.

    Texts in the data may be anything, also what somebody else's results hold: they reach the page as JSON without a
    character that is special in HTML, and its script makes text nodes of them.
    """
    style, script = _read("page.css"), _script()
    title = html.escape(data["title"]).encode("ascii", "xmlcharrefreplace").decode()  # also of half surrogates
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "title": title, "style": style, "script": script, "data": inert(data)}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _read("page.html")).encode()


def inert(data: Any) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins another, and it is ASCII.

    Raises:
        ResultsError: it holds infinity or what is no number.
    """
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ResultsError(f"the cells hold a number that is none ({error}): delete them and run again") from error
    return re.sub("[<>&]", lambda found: _SPECIAL[found[0]], text)


def _script() -> str:
    return '(() => {\n"use strict";\n' + "".join(_read(f"{name}.js") for name in SCRIPTS) + "})();\n"


def _read(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """For the content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
