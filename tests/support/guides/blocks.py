"""What stands in README and in the guides: code, command lines, links; and how commands become small. No tests."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.paths import ROOT

# Appended to a command so that it ends in seconds; the command itself stays as a reader would type it.
SMALLER = {
    "shards synth": "--videos 6 --frames 16 20",
    "fit": "--trainer.max_steps 2 --trainer.limit_val_batches 1",
    "validate": "--data.val_videos 2 --data.val_frames 16",
    "ablate": "--videos 2 --frames 16 --budgets 0.25 --compressors uniform scene_mean",
    "tinyhost eval": "--frames 16 --videos 2",
    "bench synth": "--videos 2",
    "bench compress": "--frames 4 --grid [3,3] --width 32 --repeats 1",
    "bench attach": "--frames 2 --side 2 --repeats 1",
    "tinyhost train": "--config tests/assets/tinyhost_training.yaml",
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# (\S+\.\w+)\n")


@dataclass(frozen=True)
class Block:
    """Code of a text.

    Attributes:
        language: behind the fence. line: of its first line in the text.
        file: what its first line, a comment, names, where it is to be saved as a file.
    """

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        found = FILE.match(self.text)
        return found[1] if found else None

    def commands(self) -> Iterator[tuple[int, str]]:
        """Number and text of every command line, continued ones put together."""
        begun = ""
        for number, line in enumerate(self.text.splitlines(), self.line):
            begun += line.removesuffix("\\")
            if line.endswith("\\"):
                continue
            if shlex.split(begun, comments=True):
                yield number, begun
            begun = ""


def parse(file: str) -> list[Block]:
    """All blocks of a file, in order."""
    text = (ROOT / file).read_text()
    return [Block(one[1], one[2], text.count("\n", 0, one.start(2)) + 1) for one in FENCE.finditer(text)]


def blocks(file: str, language: str) -> list[str]:
    """Texts of the blocks of one language."""
    return [block.text for block in parse(file) if block.language == language]


def smaller(words: list[str], table: dict[str, str] = SMALLER) -> list[str]:
    """What is appended to the words behind ``framefold``."""
    return next((more for verb, more in table.items() if " ".join(words).startswith(verb)), "").split()


def anchors(text: str) -> set[str]:
    """Of the headings of a text, as GitHub makes them."""
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        known = {plain, *(f"{plain}-{number}" for number in range(1, 9))}
        found.add(next(name for name in sorted(known, key=len) if name not in found))
    return found


def broken_links(file: str) -> list[str]:
    """Relative links of a file, pictures too, that lead nowhere, or to no heading."""
    place, text = ROOT / file, FENCE.sub("", (ROOT / file).read_text())
    broken = []
    for link in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        there = (place.parent / path).resolve() if path else place
        headed = there.suffix == ".md" and there.is_file()
        if not there.exists() or (anchor and not (headed and anchor in anchors(there.read_text()))):
            broken.append(link)
    return broken
