"""Atomic files and digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from framefold.files import file_digest, remove_leftovers, replace_file, replace_files, weights_digest, write_json


def test_a_failed_write_changes_no_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught:
        replace_files({first: lambda temporary: temporary.write_text("new"), second: fail})
    assert caught.value.filename == str(second) and caught.value.errno == errno.ENOSPC
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"first": "old"}


def test_a_file_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda source, target: (calls.append("rename"), replace(source, target)))
    replace_files({tmp_path / name: lambda temporary: temporary.write_text("x") for name in ("first", "second")})
    assert calls == ["fsync", "fsync", "rename", "rename"]


def test_replaced_files_are_readable_by_others(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", lambda temporary: temporary.write_text("x"))
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_only_temporary_files_of_that_name_are_removed(tmp_path: Path) -> None:
    kept = ["a[1].json", ".a[1].json", ".a[1].json.lock", ".b.json.abcd1234", ".a[1].json.abcd1234.tar"]
    for name in [*kept, ".a[1].json.abcd_123"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a[1].json")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(kept)


def test_json_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"a": [1, None, "x"]})
    assert json.loads((tmp_path / "file.json").read_text()) == {"a": [1, None, "x"]}


def test_digests_follow_the_contents_of_files(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    assert file_digest(weights) == hashlib.sha256(b"one").hexdigest() and file_digest(tmp_path / "none") == ""
    before = weights_digest(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weights_digest(tmp_path) == before  # of the weights only
    weights.write_bytes(b"other")
    assert weights_digest(tmp_path) != before
