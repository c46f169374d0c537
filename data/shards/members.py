"""Counts of what an index cannot use: files that become no part of a sample, and samples that lack a file."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from webdataset.tariterators import base_plus_ext

EXTENSIONS = ("json", "mp4", "safetensors")

RULE = "the key of a sample is its file name up to the first dot, the rest is the extension (json, mp4 or safetensors)"

TITLES = {
    "dotted": "files with more than one dot in their names",
    "hidden": "hidden files",
    "twice": "files with the name of another file of their sample",
    "incomplete": "samples that lack a file",
    "repeated": "keys that are used again",
}


class MemberNotes:
    """Counts of what an index cannot use, each with the first example."""

    def __init__(self) -> None:
        self.samples = 0
        self._counts, self._first = Counter[str](), dict[str, str]()
        self._keys, self._dotted = set[str](), 0  # samples by the last dot of their names
        self._key, self._extensions = "", set[str]()  # of the sample that is being read

    def watch(self, files: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass on the files of a tar, as webdataset groups them afterwards."""
        for file in files:
            if file:  # webdataset marks the end of a tar with an empty one
                self._note_file(file["fname"])
            yield file

    def add(self, sample: dict[str, Any]) -> None:
        """Count a sample."""
        key = sample["__key__"]
        self.samples += 1
        missing = [name for name in ("json",) if name not in sample]
        missing += ["mp4"] if "mp4" not in sample and "safetensors" not in sample else []
        if missing:
            self._note("incomplete", f"{key} has no {' and no '.join(missing)}")
        self._note_dotted(key, sample, not missing)
        if key in self._keys:
            self._note("repeated", key)
        self._keys.add(key)

    def messages(self) -> list[str]:
        """Return one sentence for each kind, with its count, the rule and an example."""
        texts = {
            "dotted": f" for {self._dotted} samples, none of which can be read: {RULE}. Rename them, for example "
            "{first}",
            "hidden": ", which are not read (first: {first})",
            "twice": ", which are not read (first: {first})",
            "incomplete": f" of {self.samples} (first: {{first}})",
            "repeated": " (first: {first}); keys must be unique, and the files of a sample adjacent",
        }
        return [
            f"{TITLES[kind]}: {self._counts[kind]}{text.format(first=self._first[kind])}"
            for kind, text in texts.items()
            if self._counts[kind]
        ]

    def _note_dotted(self, key: str, sample: dict[str, Any], complete: bool) -> None:
        """Count files whose names have more dots; next to a complete sample, only those that look like another one."""
        groups: dict[str, set[str]] = defaultdict(set)
        for name in sample:
            stem, _, extension = name.rpartition(".")
            if stem and extension in EXTENSIONS:
                groups[stem].add(extension)
        for stem, extensions in groups.items():
            if complete and (len(extensions) == 1 or "json" not in extensions):
                continue
            self._dotted += 1
            base = PurePosixPath(key).name
            for extension in sorted(extensions):
                fixed = f"{base}-{stem.replace('.', '-')}.{extension}"
                self._note("dotted", f"{base}.{stem}.{extension} to {fixed}")

    def _note_file(self, name: str) -> None:
        path = PurePosixPath(name)
        if path.suffix[1:].lower() not in EXTENSIONS or path.name.startswith("._"):  # the latter are written by macOS
            return
        key, extension = base_plus_ext(name)
        if key is None:
            self._note("hidden", name)
            return
        if key != self._key:
            self._key, self._extensions = key, set()
        if extension.lower() in self._extensions:
            self._note("twice", name)
        self._extensions.add(extension.lower())

    def _note(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        self._first.setdefault(kind, example)
