"""Difficulty of synthetic videos: what moves, flickers and repeats besides the events that questions are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from framefold.errors import DataError

LATTICES = (16, 32)

MAX_SIZE = 512


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
        blotches: largest deviation of the background from its texture, in levels, as from stains and shadows.
        size: height and width of a frame in pixels, unless `generate` is given another size.
        lattice: positions of discs and glyphs per side of a frame; a disc covers 5 of them, a glyph 3.
        crowd: fraction of the places for discs of other colours than those of flashes that are used.
        churn: fraction of these places at which the disc changes as often as flashes do; elsewhere it stays for long.
        slow: fraction of the flashes that last 4 to 8 frames and appear gradually; the mover may then be slow as well.
        faint: largest loss of contrast of a disc, for flashes and the crowd alike.
        sway: chance per frame that flashes and crowd move by one step of the lattice, as with a hand-held camera.
        conspicuous: rate of noise bursts, subtitles, cuts to black, glare, moving logos, blinking corners and coarse
            blocks; 1 is about one in every third frame.
        repeats: ask about one of several flashes of a shape, instead of counting the flashes of a colour.
        lists: also ask for colour and shape of all flashes in their order, a long answer. No embedded host was trained
            for such answers: their losses say how much of the video they need, not how well it answers.

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
    blotches: int = 0
    size: int = 64
    lattice: int = 16
    crowd: float = 0.0
    churn: float = 0.0
    slow: float = 0.0
    faint: float = 0.0
    sway: float = 0.0
    conspicuous: float = 0.0
    repeats: bool = False
    lists: bool = False

    def __post_init__(self) -> None:
        wrong = [name for name in _LIMITS if not isinstance(getattr(self, name), (int, float))]
        wrong += [name for name in ("size", "lattice") if not isinstance(getattr(self, name), int)]
        if wrong:
            raise DataError(f"{wrong[0]} must be a number, not {getattr(self, wrong[0])!r}")
        low, high = self.flashes
        if not 4 <= low <= high <= 16:
            raise DataError(f"flashes must be 4 <= fewest <= most <= 16, got {low} {high}")
        if self.lattice not in LATTICES:
            raise DataError(f"lattice must be one of {', '.join(map(str, LATTICES))}, not {self.lattice}")
        if self.size % self.lattice or not 2 * self.lattice <= self.size <= MAX_SIZE:
            raise DataError(
                f"size must be a multiple of lattice, {self.lattice}, between {2 * self.lattice} and {MAX_SIZE}, "
                f"not {self.size}"
            )
        for name, limit in _LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise DataError(f"{name} must be between 0 and {limit}, not {value}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values.

        Settings of later versions are omitted if they have their defaults, so that settings that an earlier version
        stored are still equal to those of the same preset.
        """
        settings = asdict(self) | {"flashes": list(self.flashes)}
        return {name: value for name, value in settings.items() if name not in _LATER or value != _LATER[name]}


_LIMITS = {
    **{"clutter": 4, "flares": 2, "decoys": 2, "jitter": 2, "pan": 16, "pulses": 0.2},
    **{"motion": 1, "fades": 1, "returns": 1, "quiet": 0.5},
    **{"crowd": 1, "churn": 1, "slow": 1, "faint": 0.6, "sway": 1, "conspicuous": 4, "blotches": 40},
}

_FIRST = {"flashes", "clutter", "flares", "decoys", "jitter", "pan", "motion", "pulses", "fades", "returns", "quiet"}

_LATER = {field.name: field.default for field in fields(Difficulty) if field.name not in _FIRST}

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
    "crowded": Difficulty(
        flashes=(8, 14),
        clutter=0.0,
        jitter=2,
        pan=12,
        motion=0.5,
        pulses=0.04,
        fades=0.5,
        returns=0.5,
        blotches=20,
        size=128,
        lattice=32,
        crowd=1.0,
        churn=0.85,
        slow=0.15,
        faint=0.5,
        sway=0.25,
        conspicuous=1.5,
        repeats=True,
    ),
}


def resolve_difficulty(value: str | Difficulty) -> Difficulty:
    """Return the preset of a name; settings are returned unchanged.

    Raises:
        DataError: the preset is unknown.
    """
    if isinstance(value, Difficulty):
        return value
    if not isinstance(value, str) or value not in PRESETS:
        raise DataError(f"difficulty must be {' or '.join(PRESETS)} or a mapping of settings, not {value!r}")
    return PRESETS[value]


def preset_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the preset with these settings, or "custom"."""
    return next((name for name, preset in PRESETS.items() if preset.to_dict() == settings), "custom")
