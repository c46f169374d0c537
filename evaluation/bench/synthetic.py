"""Time to generate synthetic videos: the command ``framefold bench synth``."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np

from framefold.data.synthetic.generate import generate
from framefold.errors import DataError
from framefold.evaluation.metrics.timing import Stopwatch
from framefold.progress import progress_bar

Setting = tuple[str, int]  # difficulty and frames

Timing = tuple[float, float, int]  # seconds of wall-clock time, seconds of processor time, bytes of pixels


def bench_synth(
    frames: list[int] = [64],  # noqa: B006 (read only; a list for the command line)
    videos: int = 50,
    difficulty: list[str] = ["easy", "hard"],  # noqa: B006
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Measure how long one core takes to generate a video, for every difficulty and length.

    The settings alternate after every video, so that the load of the machine affects them alike. On a busy machine
    wall-clock times grow, and processor times of this process hardly do: compare processor times.

    Args:
        frames: lengths of the videos.
        videos: number of videos for each setting.
        difficulty: difficulty presets.
        seed: seed of the videos.

    Returns:
        {"<difficulty>@<frames>": {"wall_median_ms", "wall_p95_ms", "cpu_median_ms", "cpu_p95_ms", "mb_per_s"}}:
        milliseconds per video, and megabytes (10^6 bytes) of uint8 pixels per second of median processor time.

    Raises:
        DataError: a setting is out of range; raised before any measurement.
    """
    if videos < 1 or not frames or not difficulty:
        raise DataError(f"give at least one video, length and difficulty, got {videos}, {frames} and {difficulty}")
    settings = list(dict.fromkeys(itertools.product(difficulty, frames)))
    for setting in settings:  # the first video of a setting also fills the caches of glyphs and textures
        _time(setting, 0, seed)
    timings: dict[Setting, list[Timing]] = defaultdict(list)
    for index in progress_bar(range(videos), "bench synth", unit="video", leave=False):
        turn = index % len(settings)  # no setting always follows the same one
        for setting in settings[turn:] + settings[:turn]:
            timings[setting].append(_time(setting, index, seed))
    results = {f"{preset}@{length}": _summary(timings[preset, length]) for preset, length in settings}
    print(_table(results, videos))
    return results


def _time(setting: Setting, index: int, seed: int) -> Timing:
    """Generate one video."""
    preset, frames = setting
    with Stopwatch() as watch:
        video = generate(index, seed=seed, split="train", frames=frames, difficulty=preset)
    return watch.seconds, watch.cpu_seconds, video.frames.nbytes


def _summary(timings: list[Timing]) -> dict[str, float]:
    wall, cpu, size = np.array(timings).T
    (wall_median, wall_high), (cpu_median, cpu_high) = (1000 * np.quantile(times, (0.5, 0.95)) for times in (wall, cpu))
    return {
        "wall_median_ms": float(wall_median),
        "wall_p95_ms": float(wall_high),
        "cpu_median_ms": float(cpu_median),
        "cpu_p95_ms": float(cpu_high),
        "mb_per_s": float(size[0] / 1e3 / cpu_median),
    }


def _table(results: dict[str, dict[str, float]], videos: int) -> str:
    lines = [
        f"generating videos on one core, {videos} of each setting; milliseconds per video",
        f"{'difficulty@frames':<18}{'wall median':>12}{'95 %':>9}{'CPU median':>12}{'95 %':>9}{'MB/s':>8}",
    ]
    for name, row in results.items():
        wall = f"{row['wall_median_ms']:>12.1f}{row['wall_p95_ms']:>9.1f}"
        cpu = f"{row['cpu_median_ms']:>12.1f}{row['cpu_p95_ms']:>9.1f}"
        lines.append(f"{name:<18}{wall}{cpu}{row['mb_per_s']:>8.1f}")
    return "\n".join(lines)
