"""Style natural: photographs as backgrounds. Most tests use a stand-in for scikit-image, the last one its pictures."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from framefold.__main__ import main
from framefold.data.splits import SPLITS
from framefold.data.synthetic import pictures as module
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.generate import generate
from framefold.data.synthetic.pictures import PICTURES, read_picture
from framefold.errors import DataError, MissingExtraError
from tests.support.paths import ROOT

NOISE = 15 + 8


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package skimage in which each picture is a gradient of another brightness; returns its folder of pictures."""
    folder = tmp_path / "skimage" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "skimage" / "__init__.py").write_text("raise RuntimeError('importing it takes a second')")
    for number, name in enumerate(name for names in PICTURES for name in names):
        ramp = np.add.outer(np.arange(90), np.arange(120)).astype(np.uint8) // 4 + np.uint8(18 * number)
        Image.fromarray(ramp).save(folder / f"{name}.png")
    monkeypatch.syspath_prepend(str(tmp_path))
    module.read_picture.cache_clear()
    yield folder
    module.read_picture.cache_clear()


@pytest.mark.parametrize("difficulty", ["easy", "hard", "crowded"])
def test_background_is_a_photograph_and_nothing_else_changes(package: Path, difficulty: str) -> None:
    natural, drawn = (generate(3, difficulty=difficulty, style=style, frames=16) for style in ("natural", "normal"))
    again = generate(3, difficulty=difficulty, style="natural", frames=16)
    assert (natural.frames == again.frames).all()
    assert (natural.frames != drawn.frames).mean() > 0.2
    assert [e.kind for e in natural.events if e.kind == "flash"] == [e.kind for e in drawn.events if e.kind == "flash"]
    assert [(q.text, q.answer) for q in natural.questions] == [(q.text, q.answer) for q in drawn.questions]


def test_returning_scene_shows_the_same_photograph(package: Path) -> None:
    still = Difficulty((4, 4), clutter=0.0, returns=1.0)
    for index in range(0, 60, 2):
        video = generate(index, difficulty=still, style="natural", frames=64)
        looks: dict[str, np.ndarray] = {}
        for scene in video.scenes:
            first = looks.setdefault(scene.texture, video.frames[scene.first].astype(int))
            other = np.abs(video.frames[scene.last].astype(int) - first).max(axis=-1) > NOISE
            assert other.mean() < 0.5, (index, scene)  # glyphs and flashes, not the background
        if len(looks) < len(video.scenes):
            return
    pytest.fail("no scene returned")


def test_no_two_splits_share_a_photograph() -> None:
    names = [name for split in PICTURES for name in split]
    assert len(set(names)) == len(names) >= 9 and len(PICTURES) == len(SPLITS)


def test_photographs_leave_room_for_sensor_noise(package: Path) -> None:
    Image.fromarray(np.full((60, 60), 255, np.uint8)).save(package / "chelsea.png")
    for split in range(3):
        picture = module.picture_background(module.RandomStream(split), split, np.eye(80, dtype=bool))
        assert picture.shape == (80, 80, 3) and picture.dtype == np.uint8
        assert picture.min() >= 12 and picture.max() <= 243


def test_missing_picture_is_an_error_that_names_the_remedy(package: Path) -> None:
    (package / "astronaut.png").unlink()
    with pytest.raises(DataError, match=r"astronaut\.png.*reinstall scikit-image"):
        read_picture("astronaut")
    (package / "brick.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"brick\.png.*reinstall scikit-image"):
        read_picture("brick")


def test_missing_package_is_an_error_that_names_the_extra(
    package: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"scikit-image: pip install .*\[natural\]"):
        generate(0, style="natural")
    assert main(f"view --style natural --out {tmp_path / 'video.png'}".split()) == 2
    assert "[natural]" in capsys.readouterr().err and not (tmp_path / "video.png").exists()
    monkeypatch.setitem(sys.modules, "PIL", None)
    module.read_picture.cache_clear()
    with pytest.raises(MissingExtraError, match=r"Pillow: pip install .*\[natural\]"):
        read_picture("brick")


# Checksums of the decoded pictures, (H, W, 3) uint8. Every byte of a background depends on them, and the random choices
# on the sizes; they are equal in scikit-image 0.25 and 0.26.
CHECKSUMS = {
    **{"astronaut": 4257916255, "brick": 3852333977, "grass": 244330657, "coins": 988276903, "coffee": 2901676915},
    **{"gravel": 1432337701, "ihc": 2629018712, "chelsea": 260218201, "camera": 3672374283, "clock_motion": 1822695411},
}


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs the extra 'natural'")
def test_pictures_of_scikit_image_are_those_that_videos_were_made_of() -> None:
    module.read_picture.cache_clear()
    assert {name: zlib.crc32(read_picture(name).tobytes()) for names in PICTURES for name in names} == CHECKSUMS
    for split in SPLITS:
        assert generate(0, split=split, style="natural", frames=16).frames.shape == (16, 64, 64, 3)


def test_extra_is_pinned_and_installed_by_make_setup() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(line.startswith("scikit-image>=") for line in extras["natural"])
    assert re.search(r"^scikit-image==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.search(r"-e '\.\[[^]]*\bnatural\b", (ROOT / "Makefile").read_text())
