"""Difficulty of synthetic videos: what moves, flickers and repeats besides the events that questions are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from framefold.errors import DataError


@dataclass(frozen=True)
class Difficulty:
    """Settings of the generator; the defaults are the preset "easy".

    Attributes:
        flashes: fewest and most flashes; videos that are too short for them have fewer.
        clutter: irrelevant glyphs per frame, each visible for one frame.
        flares: white discs without a glyph, per frame; as conspicuous as a flash.
        decoys: glyphs on discs of another colour, per frame; as conspicuous as a flash.
        jitter: largest camera shake per frame, in pixels of a 64-pixel frame.
        pan: largest camera drift within a scene, in pixels of a 64-pixel frame.
        motion: fraction of scenes in which a part of the background moves continuously.
        pulses: sudden changes of brightness per frame of video; each lasts two to four frames.
        fades: fraction of scene changes that are cross-fades instead of cuts.
        returns: fraction of scenes, from the third on, that repeat an earlier scene.
        quiet: fraction of the video that forms one interval without events and without camera motion.

    Raises:
        DataError: a setting is out of range.
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

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
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


def resolve_difficulty(value: str | Difficulty) -> Difficulty:
    """Return the preset of a name; settings are returned unchanged.

    Raises:
        DataError: the preset is unknown.
    """
    if isinstance(value, Difficulty):
        return value
    if value not in PRESETS:
        raise DataError(f"difficulty must be {' or '.join(PRESETS)} or a mapping of settings, not {value!r}")
    return PRESETS[value]


def preset_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the preset with these settings, or "custom"."""
    return next((name for name, preset in PRESETS.items() if preset.to_dict() == settings), "custom")
