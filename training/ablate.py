"""The ablation: compressors x budgets x seeds on held-out videos, one results file a cell, then the report."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..adapters.errors import ConfigError
from ..adapters.folder import one_line
from ..adapters.ops import check_budget
from ..adapters.params import nearest
from ..data.difficulty import Difficulty
from ..data.samples import Recipe
from .cell_settings import Settings, check_comparable
from .cells import Cell, Grid
from .digests import code_digest, host_digest
from .entrants import rows_of
from .feature_cache import FeatureCache
from .heldout_data import Shards, Synthetic
from .hostio import Precision, load_host
from .oracles import ORACLE
from .report import REPORT, report
from .results import FOLDER, stored_cells

FEATURES = "features"


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
    dtype: Precision = "auto",
    device: str | None = None,
    other_host: bool = False,
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
        other_host: take adapters that were trained in another host.

    Raises:
        UnknownCompressorError: a wrong name; ConfigError: a wrong parameter, seed, baseline, device or question type,
            or two adapters that cannot be one row; BudgetError: a wrong budget.
        ResultsError: the folder holds cells, other than those to be made, that cannot stand in one table with them.
        HostError: no host there; AdapterFileError, HubError: no adapter, or a damaged one; WrongHostError: it was
            trained in another host.
        DataError: no such split, too few frames, no such shards, or damaged ones.
    """
    folder, seeds = Path(out), list(dict.fromkeys(seeds or [0]))
    grid = [check_budget(b) for b in budgets or [0.5, 0.25, 0.1, 0.05, 0.02]]
    grid = list({repr(budget): budget for budget in grid}.values())  # 1 and 1.0 are two
    if videos < 1 or batch_size < 1 or drill < 0:
        numbers = f"{videos}, {batch_size} and {drill}"
        raise ConfigError(f"videos and batch_size must be positive and drill not negative, got {numbers}")
    where = _device(device)
    rows = rows_of(compressors, adapters or [], params or {}, oracle, data is None)
    for row, seed in product(rows, seeds):
        row.build(grid[0], seed)  # wrong parameters are found before the host is loaded
    if baseline is not None and baseline not in (names := [row.row for row in rows]):
        raise ConfigError(f"no row {baseline!r} to compare with{nearest(baseline, names)}: {', '.join(names)}")
    recipe = Recipe((frames, frames), data_seed, split, difficulty, style)
    source = Synthetic(recipe, videos) if data is None else Shards(data, videos, frames)
    _check_types(exclude or [], source.types)
    if not source.evidence and any(row.row == ORACLE for row in rows):
        print("ablation: no evidence is annotated in these shards, so there is no oracle")
        rows = [row for row in rows if row.row != ORACLE]
    frozen = load_host(host, revision, dtype)
    frozen.model.to(where)
    place = frozen.found.folder if frozen.found is not None else Path(host)
    for row in rows:
        row.check_host(frozen, place, other_host)
    weights, precision = host_digest(place), str(frozen.model.dtype).removeprefix("torch.")
    base = Settings("", {}, None, 1.0, 0, host, weights, precision, source.describe(), exclude or [])
    cells = [Cell(row, settings) for row in rows for settings in row.cells(grid, seeds, base)]
    others = stored_cells(folder, without={cell.settings.file for cell in cells})
    plain = [cell.settings.plain() for cell in cells] + [cell["settings"] for cell in others]
    check_comparable(plain, folder / FOLDER)
    key = {"host": weights, "dtype": precision, "device": where.type, "code": code_digest()}
    attention = any(row.needs_attention for row in rows)
    features = FeatureCache(Path(cache) if cache else folder / FEATURES, frozen, source, key, attention)
    work = Grid(folder, frozen, place, features, cells, batch_size, drill)
    shared = work.run()
    with work.lock():
        if shared and work.is_reported():
            print(f"report: {folder / REPORT}, by another process")
        else:
            report(out, baseline)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either where there is no such device
        raise ConfigError(f"no device {name!r} here: {one_line(error)}") from error
    return device


def _check_types(exclude: list[str], types: set[str]) -> None:
    unknown = [kind for kind in exclude if kind not in types]
    if unknown:
        raise ConfigError(f"no question type {unknown[0]!r} to exclude{nearest(unknown[0], sorted(types))}")
    if set(exclude) == types:
        raise ConfigError("exclude leaves no question type for the headline")
