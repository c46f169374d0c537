"""Folders of the checkout that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "tests" / "assets"
TINYHOST = ROOT / "checkpoints" / "tinyhost"
TINYHOST_CROWDED = ROOT / "checkpoints" / "tinyhost_crowded"
