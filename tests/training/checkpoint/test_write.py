"""At every moment of writing there is a complete checkpoint; damage is detected, and the previous checkpoint used."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from framefold.training.checkpoint.inventory import latest_checkpoint, list_checkpoints, read_header, verify_checkpoint
from framefold.training.checkpoint.write import AtomicCheckpointIO, save_atomically

HYPER = {"compressor": "fila", "budget": 0.1}
counted: dict[str, int] = {"events": -1, "kill": -1}  # -1: do not count


def _hook(event: str, args: tuple[Any, ...]) -> None:
    """End this process like kill -9 before the nth change of the file system."""
    if counted["events"] < 0 or not event.startswith(("os.", "shutil.", "test.", "open")):
        return
    counted["events"] += 1
    if counted["events"] == counted["kill"]:
        os._exit(9)


sys.addaudithook(_hook)


class Saver:
    """Stand-in for a trainer that writes a file, or a folder of two files."""

    is_global_zero, world_size, global_rank = True, 1, 0

    def __init__(self, folder: bool, step: int) -> None:
        self.folder, self.global_step, self.strategy = folder, step, self
        self._checkpoint_connector = self

    def broadcast(self, value: Any) -> Any:
        return value

    def dump_checkpoint(self, weights_only: bool) -> dict[str, Any]:
        return {"global_step": self.global_step, "hyper_parameters": HYPER, "state_dict": {"a": torch.randn(300)}}

    def save_checkpoint(self, content: dict[str, Any], place: Path) -> None:
        if not self.folder:
            AtomicCheckpointIO().save_checkpoint(content, place)
            sys.audit("test.written")
            return
        place.mkdir()
        for name in ("one.pt", "two.pt"):
            with open(place / name, "wb") as file:
                file.write(random.randbytes(3000))
                file.flush()
                sys.audit("test.half")
                file.write(random.randbytes(2000))


def save(root: Path, step: int, folder: bool = False, name: str = "last.ckpt") -> None:
    root.mkdir(parents=True, exist_ok=True)
    save_atomically(Saver(folder, step), root / name, "previous.ckpt" if name == "last.ckpt" else "")  # type: ignore[arg-type]


def killed(action: Callable[[], None], at: int) -> bool:
    """Run an action in a process that ends at its nth event; return False if the action ended before."""
    pid = os.fork()
    if not pid:
        try:
            counted.update(events=0, kill=at)
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
@pytest.mark.parametrize(("name", "saved"), [("last.ckpt", 0), ("last.ckpt", 1), ("last.ckpt", 2), ("best.ckpt", 1)])
def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool, name: str, saved: int
) -> None:
    """There are 0, 1 or 2 checkpoints of that name and of previous.ckpt before."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # slow, and not needed if only the process ends
    at, alive = 0, True
    while alive:
        at += 1
        root = tmp_path / str(at)
        root.mkdir()
        for step in range(1, saved + 1):
            save(root, step, folder, name)
        alive = killed(functools.partial(save, root, saved + 1, folder, name), at)
        complete = [found for found in map(verify_checkpoint, list_checkpoints(root, best=True)) if not found.problem]
        if saved or not alive:
            assert complete and complete[0].step in (saved, saved + 1), f"after {at} events"
        save(root, saved + 2, folder, name)  # the next run saves over what was left
        names = sorted(path.name for path in root.iterdir())
        assert names in ([name], sorted([name, "previous.ckpt"]))
        assert all(not verify_checkpoint(read_header(root / name)).problem for name in names)
        assert read_header(root / name).step == saved + 2
        if name == "last.ckpt" and saved:
            assert read_header(root / "previous.ckpt").step in (saved, saved + 1)
        shutil.rmtree(root)
    assert at > 5


def test_a_checkpoint_describes_itself(tmp_path: Path) -> None:
    for folder, kind in ((False, "file"), (True, "fsdp2")):
        save(tmp_path / kind, 7, folder)
        found = verify_checkpoint(read_header(tmp_path / kind / "last.ckpt"))
        assert (found.step, found.world_size, found.strategy, found.problem) == (7, 1, "Saver", ""), kind
        assert found.kind == kind
    manifest = json.loads((tmp_path / "fsdp2/last.ckpt/manifest.json").read_text())
    assert {name: size for name, (size, _) in manifest["files"].items()} == {"one.pt": 5000, "two.pt": 5000}
    assert manifest["world_size"] == 1 and manifest["step"] == 7


def _flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << place % 8
    file.write_bytes(data)


def test_flipped_bits_and_truncation_of_a_file_are_detected(tmp_path: Path) -> None:
    save(tmp_path, 3)
    file = tmp_path / "last.ckpt"
    good, content = file.read_bytes(), torch.load(file, weights_only=True)
    rng = random.Random(0)
    undetected = 0
    for place in rng.sample(range(len(good)), 250):
        _flip(file, place)
        if not verify_checkpoint(read_header(file)).problem:  # padding, or a field that is not read
            undetected += 1
            again = torch.load(file, weights_only=True)
            assert again["state_dict"]["a"].equal(content["state_dict"]["a"]) and again["global_step"] == 3
        file.write_bytes(good)
    assert undetected < 125
    for length in (0, 1, 100, len(good) // 10, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:length])
        assert str(file) in read_header(file).problem, length


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped bit": (lambda folder: _flip(folder / "two.pt", 1234), "the CRC of two.pt is wrong"),
    "a truncated file": (lambda folder: os.truncate(folder / "one.pt", 10), "one.pt has 10 bytes, not 5000"),
    "a missing file": (lambda folder: (folder / "one.pt").unlink(), "one.pt is missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "is incomplete: it has no manifest.json"),
    "half a manifest": (lambda folder: os.truncate(folder / "manifest.json", 90), "manifest.json is damaged"),
    "another step": (
        lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace('"step": 3', '"step": 4')
        ),
        "its CRC is wrong",
    ),
    "a list": (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is damaged"),
}


def test_damage_of_a_folder_is_described(tmp_path: Path) -> None:
    for number, (name, (damage, text)) in enumerate(DAMAGE.items()):
        root = tmp_path / str(number)
        save(root, 3, folder=True)
        damage(root / "last.ckpt")
        assert text in verify_checkpoint(read_header(root / "last.ckpt")).problem, name


def test_checkpoints_are_ordered_by_step_whatever_their_name_or_version(tmp_path: Path) -> None:
    versions = [tmp_path / f"version_{i}" / "checkpoints" for i in range(3)]
    for version in versions:
        version.mkdir(parents=True)
    save(versions[0], 30, folder=True)
    save(versions[1], 10)
    save(versions[1], 20)
    save(versions[2], 25)
    os.rename(versions[2] / "last.ckpt", versions[2] / ".last.ckpt.part")
    save(versions[2], 20, name="previous.ckpt")
    os.rename(versions[2] / "previous.ckpt", versions[2] / ".previous.ckpt.old")
    save(versions[2], 99, name="best.ckpt")
    save(tmp_path, 27, name="hpc_ckpt_2.ckpt")
    (versions[0] / "last.ckpt" / "last.ckpt").write_text("inside of a checkpoint")
    (versions[0] / "lost.ckpt").write_text("another name")
    os.utime(versions[1] / "last.ckpt", (1, 1))
    names = [(found.step, found.path.name) for found in list_checkpoints(tmp_path)]
    assert names == [
        (30, "last.ckpt"), (27, "hpc_ckpt_2.ckpt"), (25, ".last.ckpt.part"), (20, ".previous.ckpt.old"),
        (20, "last.ckpt"), (10, "previous.ckpt"),
    ]  # fmt: skip
    assert len(list_checkpoints(tmp_path, best=True)) == 8


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(tmp_path: Path, folder: bool) -> None:
    for step in (1, 2):
        save(tmp_path, step, folder)
    last = tmp_path / "last.ckpt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert latest_checkpoint(tmp_path).path == last  # type: ignore[union-attr]
    file = last / "one.pt" if folder else last
    _flip(file, len(file.read_bytes()) // 2)
    with pytest.warns(UserWarning, match="damaged checkpoint left out: .*last.ckpt"):
        found = latest_checkpoint(tmp_path)
    assert found is not None and found.path.name == "previous.ckpt" and found.step == 1
    os.truncate(file, 20)
    with pytest.warns(UserWarning, match="damaged checkpoint left out: .*last.ckpt"):
        found = latest_checkpoint(tmp_path)
    assert found is not None and found.path.name == "previous.ckpt"


def test_incomplete_leftovers_of_a_kill_are_ignored_without_a_warning(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (tmp_path / ".last.ckpt.part").write_bytes((tmp_path / "last.ckpt").read_bytes()[:500])
    (tmp_path / ".best.ckpt.part").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = latest_checkpoint(tmp_path)
    assert found is not None and found.path.name == "last.ckpt"


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "owned",)

    torch.save({"global_step": 5, "hyper_parameters": Evil()}, tmp_path / "last.ckpt")
    assert verify_checkpoint(read_header(tmp_path / "last.ckpt")).problem
    with pytest.warns(UserWarning, match="damaged checkpoint left out: .*last.ckpt"):
        assert latest_checkpoint(tmp_path) is None
    assert not (tmp_path / "owned").exists()
