"""Synthetic videos without pixels, for tests of their annotations: several times faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from framefold.data.random_stream import RandomStream
from framefold.data.synthetic import generate as module
from framefold.data.synthetic import scenes


class KeyedStream(RandomStream):
    """A random stream that knows its key, and whether it was not advanced because a result was known."""

    def __init__(self, *key: int) -> None:
        super().__init__(*key)
        self.key, self.skipped = key, False


def once_per_pair(sample: Callable[..., Any]) -> Callable[..., Any]:
    """Sample once for both twins, whose random streams and settings are equal."""
    last: dict[str, Any] = {}

    def sampled(stream: KeyedStream, *args: Any) -> Any:
        settings = (stream.key, *(arg for arg in args if isinstance(arg, int | str | module.Difficulty)))
        if last.get("settings") == settings:
            stream.skipped = True
        else:
            assert not stream.skipped, "the stream is not where this function expects it"
            last.update(settings=settings, result=sample(stream, *args))
        return last["result"]

    return sampled


SAMPLERS = ("sample_events", "arrange", "sample_scenes", "sample_distractors", "build_backdrops", "sample_crowd")
SAMPLERS += ("sample_conspicuous",)


@contextmanager
def without_pixels() -> Iterator[None]:
    """Let ``generate`` return black frames of one pixel; the annotations stay the same, which is checked."""

    def annotations() -> list[dict[str, Any]]:
        hard = [module.generate(index, difficulty="hard", size=32) for index in (4, 5, 7)]
        crowded = [module.generate(index, difficulty="crowded", size=64) for index in (4, 5)]
        return [video.annotations() for video in hard + crowded]

    expected = annotations()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RandomStream", KeyedStream)
        for name in SAMPLERS:
            patch.setattr(module, name, once_per_pair(getattr(module, name)))
        patch.setattr(scenes, "render_texture", lambda *_: np.zeros((1, 1, 3), np.uint8))
        patch.setattr(scenes, "fill_mask", lambda *_: None)
        patch.setattr(module, "_render", lambda *args: np.zeros((args[3], 1, 1, 3), np.uint8))
        patch.setattr(module, "_add_pulses", lambda *_: None)
        patch.setattr(module, "_add_noise", lambda *_: None)
        assert annotations() == expected
        yield
