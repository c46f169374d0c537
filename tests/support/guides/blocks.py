"""Code blocks, command lines and links of README and the guides."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        language: the word behind the opening fence.
        text: the code.
        line: line number of the first line of code in the document.
    """

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block must be saved as, if its first line is a comment with a file name."""
        found = FILE.match(self.text)
        return found[1] if found else None

    def commands(self) -> Iterator[tuple[int, str]]:
        """Yield line number and text of every command, with continuation lines joined."""
        joined = ""
        for number, line in enumerate(self.text.splitlines(), self.line):
            joined += line.removesuffix("\\")
            if line.endswith("\\"):
                continue
            if shlex.split(joined, comments=True):
                yield number, joined
            joined = ""


def parse(file: str) -> list[Block]:
    """Return all code blocks of a document, in order."""
    text = (ROOT / file).read_text()
    return [Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1) for found in FENCE.finditer(text)]


def blocks(file: str, language: str) -> list[str]:
    """Return the texts of the blocks in one language."""
    return [block.text for block in parse(file) if block.language == language]


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub generates for the headings of a document."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        known = {plain, *(f"{plain}-{number}" for number in range(1, 9))}
        found.add(next(name for name in sorted(known, key=len) if name not in found))
    return found


def broken_links(file: str) -> list[str]:
    """Return the relative links of a document, pictures included, whose file or heading does not exist."""
    document, text = ROOT / file, FENCE.sub("", (ROOT / file).read_text())
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        has_headings = target.suffix == ".md" and target.is_file()
        if not target.exists() or (anchor and not (has_headings and anchor in anchors(target.read_text()))):
            broken.append(link)
    return broken


def size_of(file: Path) -> tuple[int, int]:
    """Return width and height of a picture."""
    from PIL import Image

    with Image.open(file) as picture:
        return picture.size
