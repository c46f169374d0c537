"""Parts of messages: values on one line, limited in length, similar known names, and commands that install an extra."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse


def short(value: Any, limit: int = 80) -> str:
    """Return the ``repr`` of a value, truncated to ``limit`` characters; a downloaded file may contain anything."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def nearest(word: str, known: Any) -> str:
    """Return '; did you mean ...?' with the most similar known words, or the list of all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word)[:200], known, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; known: {', '.join(known) or 'none'}"


def one_line(error: Exception) -> str:
    """Return the text of an error as one line of at most 500 characters."""
    return " ".join(str(error).split())[:500]


def install_command(extra: str, options: str = "") -> str:
    """Return the command that installs an extra of framefold from where framefold itself came.

    framefold is not on PyPI. If the checkout, wheel or repository that it was installed from is not known or no longer
    there, the command names the packages of the extra instead.

    Args:
        extra: name of the extra.
        options: further options of pip.
    """
    pip = f"pip install {options}".rstrip()
    source = _source(extra)
    if source:
        return f"{pip} {source}"
    try:
        requirements = metadata.requires("framefold") or []
    except metadata.PackageNotFoundError:
        requirements = []
    marked = (text.partition(";") for text in requirements)
    named = [name.strip() for name, _, marker in marked if marker.replace("'", '"').strip() == f'extra == "{extra}"']
    return f"{pip} {' '.join(map(shlex.quote, named))}" if named else f"{pip} 'CHECKOUT_OR_WHEEL[{extra}]'"


def _source(extra: str) -> str:
    """Return what pip must be given to install framefold again with an extra; "" if that is not known."""
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"-e {shlex.quote(f'{checkout}[{extra}]')}"
    try:
        origin = json.loads(metadata.distribution("framefold").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        commit = origin["vcs_info"].get("commit_id", "")
        return shlex.quote(
            f"framefold[{extra}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}{f'@{commit}' if commit else ''}"
        )
    if urlparse(url).scheme in ("http", "https"):
        return shlex.quote(f"framefold[{extra}] @ {url}")
    path = Path(unquote(urlparse(url).path))
    return shlex.quote(f"{path}[{extra}]") if url.startswith("file:") and path.exists() else ""


def plain_text(docstring: str) -> str:
    """Return the text of a docstring without markup: names instead of references."""
    return re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", docstring).replace("``", "")
