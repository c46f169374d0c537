"""Parts of a page, and results of an untrusted source, for tests of the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from framefold.evaluation.report.page import write_page
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.result_files import read_results
from tests.support.pages.results_folders import METHODS

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    '"><img src=x onerror="window.pwned = 1">',
    "<!--",
    "]]>&lt;b&gt;{{script}}{{data}}",
    "'; window.pwned = 1; '",
    "\u2028\u2029\u202e\ud800 \x00 \U0001f3ac",
    "${window.pwned = 1}` \\u003c/script\\u003e \\",
    "__proto__",
]


class PageReader(HTMLParser):
    """Tags of a page, and the text in its scripts and styles.

    Attributes:
        tags: name and attributes of each start tag.
        texts: text between each start tag and its end tag.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.append("")
        self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data

    def of(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        """Return attributes and text of all elements with a tag."""
        return [(attrs, text) for (name, attrs), text in zip(self.tags, self.texts, strict=True) if name == tag]


def read_page(out: Path) -> tuple[PageReader, dict[str, Any]]:
    """Write the page of a results folder and return its parts and its data."""
    table = ResultTable(read_results(out), left_out=read_left_out(out))
    reader = PageReader(write_page(table, out).read_text())
    (data,) = [text for attrs, text in reader.of("script") if attrs.get("id") == "data"]
    return reader, json.loads(data)


def make_hostile(result: dict[str, Any]) -> None:
    """Replace the texts of a result by texts that try to break out of the page."""
    names = dict(zip(METHODS, HOSTILE, strict=False)) | {"identity": "identity"}
    result["compressor"] = result["settings"]["compressor"] = names[result["compressor"]]
    result["settings"]["host"] = result["settings"]["host_weights"] = HOSTILE[0]
    result["settings"]["params"] = {HOSTILE[1]: HOSTILE[2]} if result["settings"]["adapter"] is None else {}
    result["versions"] = dict(zip(HOSTILE, reversed(HOSTILE), strict=True))
    result["git"] = {"commit": HOSTILE[0], "dirty": HOSTILE[5]}
    result["machine"] |= {"processor": HOSTILE[1]}
    for name in ("question", "answer", "said", "type"):
        result["answers"][name] = [HOSTILE[sum(text.encode()) % len(HOSTILE)] for text in result["answers"][name]]
