"""Commands that install an extra work from where framefold came: checkout, wheel, repository, or none of them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from framefold import messages
from framefold.messages import install_command
from tests.support.paths import ROOT


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pretend that framefold is installed among other packages, with the given record of its origin."""

    def install(origin: dict | None) -> None:
        monkeypatch.setattr(messages, "__file__", str(tmp_path / "site-packages" / "framefold" / "messages.py"))
        text = None if origin is None else json.dumps(origin)
        found = SimpleNamespace(read_text=lambda name: text if name == "direct_url.json" else None)
        monkeypatch.setattr(messages.metadata, "distribution", lambda name: found)
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        lines = [f'{line} ; extra == "{extra}"' for extra, lines in extras.items() for line in lines]
        monkeypatch.setattr(messages.metadata, "requires", lambda name: ["torch>=2.8", *lines])

    return install


def test_a_checkout_is_installed_again_with_the_extra() -> None:
    assert install_command("train") == f"pip install -e '{ROOT}[train]'"
    command = install_command("mamba", "--no-build-isolation")
    assert command == f"pip install --no-build-isolation -e '{ROOT}[mamba]'"


def test_a_wheel_a_folder_and_a_repository_are_named_as_they_were_installed(installed, tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "framefold-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    git = {"url": "https://example.org/f.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    for origin, words in (
        ({"url": wheel.as_uri(), "archive_info": {}}, f"'{wheel}[lora]'"),
        ({"url": tmp_path.as_uri(), "dir_info": {}}, f"'{tmp_path}[lora]'"),
        (git, "'framefold[lora] @ git+https://example.org/f.git@abc'"),
        ({"url": "https://example.org/f.whl", "archive_info": {}}, "'framefold[lora] @ https://example.org/f.whl'"),
    ):
        installed(origin)
        assert install_command("lora") == f"pip install {words}", origin


def test_packages_are_named_if_the_origin_is_unknown_or_gone(installed, tmp_path: Path) -> None:
    for origin in (None, {"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}}):
        installed(origin)
        assert install_command("report") == "pip install 'matplotlib>=3.9' 'plotly>=6'"
        assert "'pytorch-lightning>=2.6' 'deepspeed>=0.19'" in install_command("train")
