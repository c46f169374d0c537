"""The verb ``framefold ablate``: compressors x budgets x seeds on held-out videos, then the report.

Nothing here may import transformers before torchvision has been found, since transformers looks for it once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from framefold.adapters.core.budget import check_budget
from framefold.adapters.core.registry import get
from framefold.data.shards.index import FEATURES
from framefold.data.shards.sources import resolve_shards
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.frozen_host.device import device_of
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision

from .config import AblationConfig

CACHE = "features"  # folder of encoded videos in that of the results


def ablate(
    out: str,
    host: str = "checkpoints/tinyhost",
    compressors: list[str] | None = None,
    adapters: list[str] | None = None,
    params: dict[str, dict[str, Any]] | None = None,
    budgets: list[int | float] | None = None,  # in this order: the command line tries types from the left
    seeds: list[int] | None = None,
    oracle: bool = True,
    data: str | None = None,
    videos: int = 150,
    frames: int = 64,
    data_seed: int = 0,
    split: str = "test",
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    exclude: list[str] | None = None,
    batch_size: int = 8,
    baseline: str | None = None,
    drill: int = 6,
    cache: str | None = None,
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    device: str | None = None,
    allow_other_host: bool = False,
) -> None:
    """Compare compressors at equal budgets on held-out videos; finished cells are not run again.

    Several such calls with the same ``out``, on one machine or on several with a common file system, share the work.

    Args:
        out: folder for cells/*.json, report.md, its pictures, and the encoded videos.
        host: folder of the host, or its id on the Hub.
        compressors: registered names, chains too (storm+st_simdiff); all by default. Trainable ones take part through
            their adapters.
        adapters: of trained compressors, folders or ids on the Hub; those of one compressor are one row, if they differ
            only in the seed of their training. With LoRA they are a row of their own, such as "storm (LoRA)", for whose
            cells, and no others, the host runs with that LoRA.
        params: constructor parameters by compressor name; an adapter's training-free counterpart gets the adapter's.
        budgets: retention ratios (floats) or tokens per video (ints).
        seeds: of compressors that draw, such as random; the others run once.
        oracle: add a row that keeps each question's annotated evidence, and one that keeps all events.
        data: shards of videos with questions, or of features; synthetic videos by default.
        videos: number of held-out videos, the first ones of shards.
        frames: of each synthetic video; of those in shards the host is shown so many at most.
        data_seed: of synthetic videos; split: train, val or test.
        difficulty: easy, hard, or settings of data.difficulty.Difficulty; style: normal or held_out.
        exclude: question types to leave out of the headline.
        batch_size: videos per forward of the language model.
        baseline: row that the others are compared with; by default st_simdiff, if it is there.
        drill: for how many videos, the first ones, to note which tokens were kept.
        cache: folder for encoded videos; by default in ``out``. Several ablations may share it.
        revision: of a host on the Hub. dtype: of the host; auto is that of its weights.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
        allow_other_host: take adapters that were trained in another host.

    Raises:
        UnknownCompressorError: a wrong name; ConfigError: a wrong parameter, seed, baseline, device or question type,
            or two adapters that cannot be one row; BudgetError: a wrong budget.
        ResultsError: the folder holds cells, other than those to be made, that cannot stand in one table with them.
        HostError: no host there; AdapterFileError, HubError: no adapter, or a damaged one; WrongHostError: it was
            trained in another host.
        DataError: no such split, too few frames, no such shards, or damaged ones.
        MissingExtraError: torchvision or what else the host's processor needs for videos; the message installs it.
    """
    grid = [check_budget(budget) for budget in budgets or [0.5, 0.25, 0.1, 0.05, 0.02]]
    if videos < 1 or batch_size < 1 or drill < 0:
        numbers = f"{videos}, {batch_size} and {drill}"
        raise ConfigError(f"videos and batch_size must be positive and drill not negative, got {numbers}")
    for name in compressors or []:
        get(name)
    where, recipe = device_of(device), Recipe((frames, frames), data_seed, split, difficulty, style)
    shards, found = None if data is None else resolve_shards(data), find_host(host, revision)
    if not found.is_embedded and (shards is None or shards.kind != FEATURES):
        find_torchvision()
    from .run import run_ablation

    wanted = AblationConfig(
        out=Path(out),
        host=found,
        device=where,
        dtype=dtype,
        compressors=compressors,
        adapters=adapters or [],
        params=params or {},
        budgets=list({repr(budget): budget for budget in grid}.values()),  # 1 and 1.0 are two
        seeds=list(dict.fromkeys(seeds or [0])),
        oracle=oracle,
        recipe=recipe,
        data=shards,
        videos=videos,
        frames=frames,
        exclude=exclude or [],
        batch_size=batch_size,
        baseline=baseline,
        drill=drill,
        cache=Path(cache) if cache else Path(out) / CACHE,
        allow_other_host=allow_other_host,
    )
    run_ablation(wanted)
