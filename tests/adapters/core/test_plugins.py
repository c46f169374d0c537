"""Packages of other people: an entry point that works, and what is said about one that does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import framefold
from framefold.__main__ import main
from framefold.adapters.core import registry
from framefold.errors import UnknownCompressorError
from tests.support.cases import case
from tests.support.guides.blocks import blocks
from tests.support.paths import TINYHOST
from tests.support.plugins import declare, write_package

NAME = "plugin_of_a_test"

BROKEN = {  # source of the package, entry point, end of the message
    "missing_module": (
        "import no_such_module",
        "methods:Mine",
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax": ("def (", "methods:Mine", "SyntaxError: "),
    "error": ("raise RuntimeError('no licence')", "methods:Mine", "RuntimeError: no licence"),
    "exit": ("import sys; sys.exit('no licence')", "methods:Mine", "SystemExit: no licence"),
    "attribute": ("", "methods:Mine", "has no attribute 'Mine'"),
    "no_module": ("", "elsewhere:Mine", "No module named 'package_no_module.elsewhere'"),
    "relative": ("from .nothing import x", "methods:Mine", "No module named 'package_relative.nothing'"),
    "taken": ("import framefold\nclass Mine(framefold.Selector): name = 'uniform'", "methods:Mine", "two compressors"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder on ``sys.path``; what its packages register is removed afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before, modules = dict(registry._CLASSES), set(sys.modules)
    registry._load_plugins.cache_clear()
    yield tmp_path
    registry._CLASSES.clear()
    registry._CLASSES.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("package_") or name.partition(".")[0] == "my_package":
            del sys.modules[name]
    registry._load_plugins.cache_clear()


@pytest.mark.filterwarnings("ignore:the compressor plug-in")
def test_a_plugin_that_fails_is_named_with_its_entry_point_and_error(site: Path, tmp_path: Path) -> None:
    for key, (source, value, _) in BROKEN.items():
        package, name = f"package_{key}", f"{NAME}_{key}"
        write_package(site, package, name, source=source)
        declare(site, package, **{name: f"{package}.{value}"})
    for key, (_, value, error) in BROKEN.items():
        with case(key):
            package, name = f"package_{key}", f"{NAME}_{key}"
            for wanted in (name, f"uniform+{name}"):
                with pytest.raises(UnknownCompressorError) as caught:
                    framefold.build(wanted, 0.1)
                entry = f"plug-in '{name}' ({package}.{value}) of {package} 1.0 failed to import"
                assert entry in str(caught.value) and error in str(caught.value)
    with pytest.raises(UnknownCompressorError, match="package_error.methods:Mine.*no licence"):
        framefold.build("a_name_that_another_class_of_the_plug_in_may_have", 0.1)
    assert framefold.build("uniform", 0.1).name == "uniform"


@pytest.mark.filterwarnings("ignore:the compressor plug-in")
def test_every_verb_names_the_plugin_that_failed(
    site: Path, tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(site, "package_broken", NAME, source="raise RuntimeError('no licence')")
    declare(site, "package_broken", **{NAME: "package_broken.methods:Mine"})
    monkeypatch.setattr(sys, "argv", ["framefold"])
    video, host = ["--video", "x.mp4", "--question", "What?"], ["--host", str(TINYHOST)]
    fit = ["--config", "trainer/cpu", "--model.compressor", NAME, "--data.shards", str(shards)]
    for words in (
        ["answer", *host, *video, "--compressor", NAME],
        ["show", *host, *video[:2], "--out", f"{tmp_path}/x.png", "--compressor", NAME],
        ["eval", *host, "--tasks", "mlvu", "--out", f"{tmp_path}/eval", "--compressor", NAME],
        ["ablate", *host, "--out", f"{tmp_path}/ablation", "--compressors", NAME],
        ["bench", "compress", "--compressors", NAME],
        ["bench", "attach", "--compressor", NAME],
        ["fit", *fit],
        ["validate", *fit],
        ["export", NAME, "--out", f"{tmp_path}/adapter"],
    ):
        with case(*words[:2]):
            assert main(words) == 2
            error = capsys.readouterr().err.splitlines()[-1]
            assert f"plug-in '{NAME}' (package_broken.methods:Mine) of package_broken 1.0 failed" in error
            assert "RuntimeError: no licence" in error


def test_an_entry_point_that_defines_another_name_is_named(site: Path) -> None:
    write_package(site, "package_other", "another_name_of_a_test")
    declare(site, "package_other", **{NAME: "package_other.methods:Mine"})
    with pytest.raises(UnknownCompressorError, match=f"was imported, but defines no class with name = '{NAME}'"):
        framefold.build(NAME, 0.1)
    assert framefold.build("another_name_of_a_test", 0.1)


def test_the_compressor_of_the_guide_works_from_another_package(site: Path) -> None:
    source = next(text for text in blocks("docs/add_compressor.md", "python") if "class Moving" in text)
    assert "from framefold import Selector" in source and "from ." not in source
    (site / "my_package").mkdir()
    (site / "my_package" / "moving.py").write_text(source)
    declare(site, "my_package", moving="my_package.moving:Moving")
    assert "moving" in framefold.list_compressors()
    video = framefold.VideoTokens.from_grid(torch.randn(6, 2, 2, 8))
    for name in ("moving", "my_package.moving.Moving", "uniform+my_package.moving.Moving"):
        assert len(framefold.build(name, 5)(video).tokens) == 5
    framefold.build("moving", 5, step=2).save_pretrained(site / "adapter")
    assert framefold.load(site / "adapter").params() == {"step": 2}


def test_a_class_path_that_cannot_be_imported_says_why(site: Path) -> None:
    write_package(site, "package_path", NAME, source="raise RuntimeError('no licence')")
    for path, text in (
        ("no_such_package.Mine", "No module named 'no_such_package'; install no_such_package, or add its folder"),
        ("package_path.methods.Mine", "RuntimeError: no licence"),
        ("package_path.Mine", "has no attribute 'Mine'"),
        ("uniform+package_path.methods.Mine", "RuntimeError: no licence"),
    ):
        with case(path), pytest.raises(UnknownCompressorError, match=text):
            framefold.build(path, 0.1)
