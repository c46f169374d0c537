"""Synthetic videos without pixels, for tests of their annotations: three times faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from framefold.data.synthetic import generate as module
from framefold.data.synthetic import scenes


@contextmanager
def without_pixels() -> Iterator[None]:
    """Let ``generate`` return black frames of one pixel; the annotations stay the same, which is checked."""
    expected = [module.generate(index, difficulty="hard", size=32).annotations() for index in (4, 5)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "render_texture", lambda *_: np.zeros((1, 1, 3), np.uint8))
        patch.setattr(scenes, "fill_mask", lambda *_: None)
        patch.setattr(
            module, "_render", lambda scenes, backdrops, events, frames, *_: np.zeros((frames, 1, 1, 3), "u1")
        )
        patch.setattr(module, "_add_pulses", lambda *_: None)
        patch.setattr(module, "_add_noise", lambda *_: None)
        assert [module.generate(index, difficulty="hard", size=32).annotations() for index in (4, 5)] == expected
        yield
