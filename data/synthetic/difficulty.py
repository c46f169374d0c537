"""How hard a synthetic video is: what moves, flickers and repeats beside the events that are asked about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from framefold.errors import DataError


@dataclass(frozen=True)
class Difficulty:
    """Settings of the generator; the defaults are the preset "easy".

    Attributes:
        flashes: fewest and most brief look-alike events (fewer in videos too short for them).
        clutter: irrelevant one-frame glyphs per frame. flares: white discs without a glyph, per frame. decoys: glyphs
            on discs of another colour, per frame; flares and decoys stand out as much as what is asked about.
        jitter: camera shake, up to so many pixels (of 64) a frame. pan: pixels (of 64) a camera may drift in a scene.
        motion: share of scenes in which a part of the background moves all the time.
        pulses: sudden changes of brightness, of two to four frames, per frame of video.
        fades: share of scene changes that are cross-fades and not cuts.
        returns: share of scenes, from the third on, that show an earlier one again.
        quiet: share of the video in one stretch in which nothing happens and the camera stands still.

    Raises:
        DataError: a setting out of range.
    """

    flashes: tuple[int, int] = (4, 6)
    clutter: float = 0.5
    flares: float = 0.0
    decoys: float = 0.0
    jitter: int = 0
    pan: int = 0
    motion: float = 0.0
    pulses: float = 0.0
    fades: float = 0.0
    returns: float = 0.0
    quiet: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.flashes
        if not 4 <= low <= high <= 16:
            raise DataError(f"flashes must be 4 <= fewest <= most <= 16, got {low} {high}")
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise DataError(f"{name} must be between 0 and {limit}, not {value}")

    def plain(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return asdict(self) | {"flashes": list(self.flashes)}


_LIMITS = {
    **{"clutter": 4, "flares": 2, "decoys": 2, "jitter": 2, "pan": 16, "pulses": 0.2},
    **{"motion": 1, "fades": 1, "returns": 1, "quiet": 0.5},
}

PRESETS = {
    "easy": Difficulty(),
    "hard": Difficulty(
        flashes=(8, 16),
        clutter=0.5,
        flares=0.25,
        decoys=1.5,
        jitter=1,
        pan=12,
        motion=0.7,
        pulses=0.04,
        fades=0.5,
        returns=0.5,
        quiet=0.25,
    ),
}


def difficulty_of(value: str | Difficulty) -> Difficulty:
    """A preset by its name, or the settings themselves.

    Raises:
        DataError: there is no such preset.
    """
    if isinstance(value, Difficulty):
        return value
    if value not in PRESETS:
        raise DataError(f"difficulty must be {' or '.join(PRESETS)} or a mapping of settings, not {value!r}")
    return PRESETS[value]


def preset_name(settings: Mapping[str, Any]) -> str:
    """The preset that has these plain settings, or "custom"."""
    return next((name for name, preset in PRESETS.items() if preset.plain() == settings), "custom")
