"""A compressor of another package is trained by its class path, exported, resumed and loaded by its name."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import framefold
from framefold.__main__ import main
from framefold.adapters.core import registry
from framefold.cli.export import export
from framefold.errors import AdapterFileError
from tests.support.cases import case
from tests.support.plugins import declare, write_package

PACKAGE, NAME = "package_of_a_test", "own_of_a_test"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on ``sys.path`` with a package that has not been imported."""
    folder, before = tmp_path_factory.mktemp("site"), dict(registry._CLASSES)
    write_package(folder, PACKAGE, NAME, "Own")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        forget()
        registry._CLASSES.clear()
        registry._CLASSES.update(before)


UNUSABLE = """
from framefold import Selector
from torch import nn

from package_of_a_test.methods import Own


class View(Own):
    name = "view_of_a_test"

    def __init__(self, budget: float | int = 0.25, *, width: int = 32) -> None:
        super().__init__(budget, width=width)
        self.register_buffer("rows", self.head.weight.detach()[:, 1:])


class Inherits(Own): ...


class Nameless(Selector):
    trainable = True

    def __init__(self, budget: float | int = 0.25) -> None:
        super().__init__(budget)
        self.head = nn.Linear(32, 1)
"""


def forget() -> None:
    """Behave like a process that has not imported the package."""
    registry._CLASSES.pop(NAME, None)
    registry._load_plugins.cache_clear()
    for module in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[module]


@pytest.fixture(scope="module")
def fit(random_host: Path, shards: Path, site: Path) -> Callable[..., int]:
    """Call ``framefold fit`` with a run folder."""
    data = ["--config", "data/shards", "--data.shards", str(shards), "--data.batch_size", "2"]
    trainer = ["--config", "trainer/cpu", "--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0"]
    model = ["--model.host", str(random_host), "--model.budget", "0.2"]

    def run(root: Path, *args: str, verb: str = "fit") -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["framefold"])
            return main([verb, *data, *trainer, *model, "--trainer.default_root_dir", str(root), *args])

    return run


@pytest.fixture(scope="module")
def runs(fit: Callable[..., int], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of the compressor alone and in a chain."""
    folder = tmp_path_factory.mktemp("runs")
    paths = {NAME: f"{PACKAGE}.methods.Own", f"uniform+{NAME}": f"uniform+{PACKAGE}.methods.Own"}
    for number, path in enumerate(paths.values()):
        assert fit(folder / str(number), "--model.compressor", path, "--trainer.max_steps", "2") == 0
    return {name: folder / str(number) for number, name in enumerate(paths)}


def last(run: Path) -> Path:
    return next(run.rglob("last.ckpt"))


def test_the_checkpoint_holds_the_registered_name(runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        saved = torch.load(last(run), weights_only=True)
        assert saved["hyper_parameters"]["compressor"] == name
        assert saved["compressor_classes"] == {NAME: f"{PACKAGE}.methods.Own"}


def test_it_is_exported_and_loaded_where_the_package_is_imported(runs: dict[str, Path], tmp_path: Path) -> None:
    importlib.import_module(f"{PACKAGE}.methods")
    for number, (name, run) in enumerate(runs.items()):
        with case(name):
            folder = export(str(run), str(tmp_path / str(number)))
            config = json.loads((folder / "config.json").read_text())
            assert config["compressor_classes"] == {NAME: f"{PACKAGE}.methods.Own"}
            assert config["training"]["data"]["source"] == "shards"  # the run's configuration names the class path
            loaded, trained = framefold.load(folder), torch.load(last(run), weights_only=True)["state_dict"]
            card = (folder / "README.md").read_text()
            assert (
                loaded.name == name and f"`{name}`" in card and f"import {PACKAGE}.methods  # defines {NAME}\n" in card
            )
            for key, value in loaded.state_dict().items():
                assert torch.equal(value, trained[f"compressor.{key}"])


def test_loading_says_what_to_import_in_every_verb(
    runs: dict[str, Path], fit: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module(f"{PACKAGE}.methods")
    folder = export(str(runs[NAME]), str(tmp_path / "adapter"))
    forget()
    advice = f"import {PACKAGE}.methods first (on the command line, 'framefold --import {PACKAGE}.methods ...')"
    entry = f'entry point {NAME} = "{PACKAGE}.methods:Own" in the group framefold.compressors of {PACKAGE}'
    with pytest.raises(AdapterFileError, match=f"it is the class {PACKAGE}.methods.Own"):
        framefold.load(folder)
    video = ["--host", "x", "--video", "x", "--question", "x", "--compressor", str(folder)]
    for words in (
        ["export", str(runs[NAME]), "--out", str(tmp_path / "again")],
        ["export", str(runs[f"uniform+{NAME}"]), "--out", str(tmp_path / "again")],
        ["export", str(folder), "--out", str(tmp_path / "again")],
        ["answer", *video],
        ["show", *video[:4], "--out", str(tmp_path / "x.png"), "--compressor", str(folder)],
        ["ablate", "--out", str(tmp_path / "x"), "--compressors", "uniform", "--adapters", str(folder)],
    ):
        with case(words[0]):
            assert main(words) == 2
            error = capsys.readouterr().err
            assert advice in error and entry in error and error.count("\n") == 1, error
    assert fit(tmp_path / "v", "--ckpt_path", str(last(runs[NAME])), verb="validate") == 2
    assert advice in capsys.readouterr().err
    assert NAME not in framefold.list_compressors() and PACKAGE not in sys.modules


def test_the_option_import_makes_it_known(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FRAMEFOLD_IMPORT", "")
    forget()
    words = ["export", str(runs[NAME]), "--out", str(tmp_path / "adapter")]
    assert main(["--import", f"{PACKAGE}.methods", *words]) == 0
    forget()  # as in a process that the command starts
    assert framefold.load(tmp_path / "adapter").name == NAME
    forget()
    assert main([f"--import={PACKAGE}.nothing", *words]) == 2
    assert f"--import {PACKAGE}.nothing: ModuleNotFoundError" in capsys.readouterr().err


def test_an_entry_point_makes_it_known(runs: dict[str, Path], site: Path, tmp_path: Path) -> None:
    forget()
    declare(tmp_path / "info", PACKAGE, **{NAME: f"{PACKAGE}.methods:Own"})
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path / "info")
        assert main(["export", str(runs[NAME]), "--out", str(tmp_path / "adapter")]) == 0
        assert framefold.load(tmp_path / "adapter").name == NAME
    forget()


def test_a_run_of_a_class_path_resumes(runs: dict[str, Path], fit: Callable[..., int]) -> None:
    for name, run in runs.items():
        with case(name):
            forget()
            given = name.replace(NAME, f"{PACKAGE}.methods.Own")
            assert fit(run, "--model.compressor", given, "--trainer.max_steps", "3", "--resume", "auto") == 0
            files = sorted(run.rglob("last.ckpt"), key=lambda file: file.stat().st_mtime)
            assert torch.load(files[-1], weights_only=True)["global_step"] == 3


def test_a_checkpoint_with_a_class_path_of_an_earlier_version_is_exported(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    saved = torch.load(last(runs[NAME]), weights_only=True)
    saved["hyper_parameters"]["compressor"] = f"{PACKAGE}.methods.Own"
    del saved["compressor_classes"]
    torch.save(saved, tmp_path / "last.ckpt")
    forget()
    with pytest.raises(AdapterFileError, match=f"import {PACKAGE}.methods first"):
        export(str(tmp_path / "last.ckpt"), str(tmp_path / "adapter"))
    importlib.import_module(f"{PACKAGE}.methods")
    assert framefold.load(export(str(tmp_path / "last.ckpt"), str(tmp_path / "adapter"))).name == NAME


def test_what_cannot_be_saved_is_refused_before_training(
    fit: Callable[..., int], site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / PACKAGE / "unusable.py").write_text(UNUSABLE)
    importlib.invalidate_caches()
    for cls, text in (
        ("View", "rows is a view of the memory of head.weight"),
        ("Inherits", "Inherits must define its own name"),
        ("Nameless", "Nameless must define its own name"),
    ):
        with case(cls):
            path = f"{PACKAGE}.unusable.{cls}"
            assert fit(tmp_path / cls, "--model.compressor", path, "--trainer.max_steps", "1") == 2
            error = capsys.readouterr().err
            assert text in error and "Traceback" not in error
            assert not list((tmp_path / cls).rglob("*.ckpt"))
