"""The page of an ablation: one HTML file that loads nothing and runs no script but its own."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from framefold.errors import ResultsError
from framefold.files import replace_file, text_digest

from .page_data import page_data, question_data
from .styles import palette_css
from .table import ResultTable

PAGE = "report.html"

# Concatenated in this order they are one script.
SCRIPTS = ("core", "table", "plot", "plots", "frames", "questions", "page")

MAX_BYTES = 5_000_000  # of a page; the number of videos whose questions are shown is halved until it fits

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def write_page(table: ResultTable, out: Path) -> Path:
    """Write ``report.html`` atomically.

    Args:
        table: results.
        out: folder to write into.

    Returns:
        Path of the page.

    Raises:
        ResultsError: the answers or kept tokens of a result are damaged; an older page is not replaced.
        OSError: the page cannot be written.
    """
    data = page_data(table, out.resolve().name)
    videos = max((result["drill"] for result in table.results), default=0)
    page = render_page(data | question_data(table, videos))
    while len(page) > MAX_BYTES and videos > 1:
        videos //= 2
        page = render_page(data | question_data(table, videos))
    replace_file(out / PAGE, lambda temporary: temporary.write_bytes(page))
    return out / PAGE


def render_page(data: dict[str, Any]) -> bytes:
    """Return the page with its data.

    Texts of the data may be anything, because results may come from an untrusted source. They are embedded as JSON
    without characters that are special in HTML, and the script inserts them into the page as text nodes only.
    """
    style, script, plotly = palette_css() + _read_asset("page.css"), _script(), get_plotlyjs()
    title = (
        html.escape(f"{data['folder']}: {data['title']}").encode("ascii", "xmlcharrefreplace").decode()
    )  # also of lone surrogates
    policy = (
        # plotly fills an empty style element rule by rule and sets style attributes; neither can load or run anything.
        f"default-src 'none'; style-src '{_csp_hash(style)}' '{_csp_hash('')}'; style-src-attr 'unsafe-inline'; "
        f"script-src '{_csp_hash(script)}' '{_csp_hash(plotly)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "title": title, "style": style, "script": script, "data": inert_json(data)}
    parts["plotly"] = base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode()
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read_asset("page.html")).encode()


def inert_json(data: Any) -> str:
    """Return JSON for a script element: ASCII, and without characters that could end the element or begin another one.

    Raises:
        ResultsError: the data contains infinity or NaN.
    """
    try:
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise ResultsError(
            f"the results contain a number that is not finite ({error}): delete them and run again"
        ) from error
    return re.sub("[<>&]", lambda match: _ESCAPES[match[0]], text)


def _script() -> str:
    return '(() => {\n"use strict";\n' + "".join(_read_asset(f"{name}.js") for name in SCRIPTS) + "})();\n"


def _read_asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Return the hash by which the content security policy permits an inline script or style."""
    return "sha256-" + base64.b64encode(bytes.fromhex(text_digest(text))).decode()
