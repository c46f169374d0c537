"""Compare compressors at equal budgets on held-out videos: ``framefold.ablate`` and its command.

This module must not import transformers before torchvision is found, since transformers looks for it only once.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from framefold.adapters.base.build import registered_name
from framefold.adapters.core.budget import check_budget
from framefold.data.shards.index import FEATURES
from framefold.data.shards.sources import resolve_shards
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision

from .ablation_table import AblationTable
from .config import MOST_DAMAGED, AblationConfig

CACHE = "features"  # folder of the encoded videos inside the output folder


def ablate(
    out: str,
    host: str = "checkpoints/tinyhost",
    compressors: list[str] | None = None,
    adapters: list[str] | None = None,
    params: dict[str, dict[str, Any]] | None = None,
    budgets: list[int | float] | None = None,  # in this order: the command line tries types from the left
    equal: Literal["tokens", "flops"] = "tokens",
    seeds: list[int] | None = None,
    oracle: bool = True,
    rows: list[str] | None = None,
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
    max_damaged: float = MOST_DAMAGED,
) -> AblationTable:
    """Compare compressors at equal budgets on held-out videos; results that exist already are not computed again.

    Several calls with the same ``out``, on one machine or on several with a shared file system, share the work.

    Args:
        out: output folder: cells/*.json, report.md with its plots, and the encoded videos.
        host: folder of the host, or its id on the Hub, if it has been downloaded (hf download).
        compressors: registered names, class paths, or chains such as storm+st_simdiff; all registered compressors by
            default. Trainable compressors take part through their adapters.
        adapters: trained adapters, as folders or ids on the Hub. Adapters of one compressor that differ only in the
            seed of their training form one method. An adapter with LoRA forms a method of its own, such as
            "storm (LoRA)", and the host has that LoRA only while it runs this method.
        params: constructor parameters by compressor name. The training-free counterpart of an adapter gets the
            parameters of the adapter. A key with a label, such as "fastv (layer 2)", adds a row of this name, so that
            one compressor can take part with several parameters.
        budgets: retention ratios (floats) or tokens per video (ints).
        equal: what methods at a budget have in common. With "tokens", the mean number of visual tokens over the layers
            of the language model. With "flops", methods that act inside the language model get the largest mean at
            which its prefill has at most the FLOPs of the budget's number of tokens in every layer; their rows are
            named, for example, "fastv (equal FLOPs)", and all other methods run as with "tokens".
        seeds: seeds of compressors that use random numbers; the others run once.
        oracle: add a method that keeps the annotated evidence of each question, and one that keeps all events.
        rows: further rows. "resize": smaller frames instead of compression, at the smallest side at which all frames
            fit; "grid": fewer and larger ones at equal tokens (3/4, 1/2 and 1/4 of the side; "uniform" is the full
            side); "reinvest:NAME": a method of the table with 2 and 4 times the frames that fit into the budget without
            compression, instead of all; "one_frame" and "blind": the host with one frame and without the video.
        data: shards of videos with questions, or of features; synthetic videos by default.
        videos: number of held-out videos; of shards, the first ones.
        frames: length of each synthetic video; of videos in shards, the host gets at most this number of frames.
        data_seed: seed of synthetic videos.
        split: split of synthetic videos: train, val or test.
        difficulty: easy, hard, crowded, or the fields of data.synthetic.difficulty.Difficulty.
        style: style of synthetic videos: normal, held_out or natural.
        exclude: question types that do not count for the headline accuracy.
        batch_size: videos per forward pass of the language model.
        baseline: method that the others are compared with; by default that of ``framefold report``.
        drill: number of videos, from the first, for which the kept tokens are recorded.
        cache: folder of encoded videos, which several ablations may share; by default inside ``out``.
        revision: revision of a host on the Hub.
        dtype: dtype of the host; auto is bfloat16 on a GPU, and that of its weights elsewhere.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
        allow_other_host: accept adapters that were trained in another host.
        max_damaged: fraction of the videos in shards that may be damaged, or refused by the host; they are left out.

    Returns:
        Table of accuracies, costs and differences, with the paths of the report and the page. Progress is printed as by
        the command; ``print(table)`` shows the rest of what that prints.

    Raises:
        UnknownCompressorError: a name is not registered.
        ConfigError: a parameter, row, seed, baseline, device or question type is invalid, or two adapters of one
            compressor cannot form one method.
        BudgetError: a budget is out of range. Cells of methods inside the language model whose budget is not possible
            there are left out instead, and the tables say so.
        ResultsError: the folder holds other results that cannot share a table with these.
        HostError: there is no such host.
        AdapterFileError, HubError: an adapter is missing or damaged.
        WrongHostError: an adapter was trained in another host.
        DataError: there is no such split, there are too few frames, or shards are missing or damaged.
        MissingExtraError: torchvision or another package that the host's processor needs for videos is missing; the
            message contains the command that installs it.
    """
    checked = [check_budget(budget) for budget in budgets or [0.5, 0.25, 0.1, 0.05, 0.02]]
    if videos < 1 or batch_size < 1 or drill < 0:
        numbers = f"{videos}, {batch_size} and {drill}"
        raise ConfigError(f"videos and batch_size must be positive and drill not negative, got {numbers}")
    if not 0 <= max_damaged <= 1:
        raise ConfigError(f"max_damaged must be between 0 and 1, not {max_damaged}")
    if equal not in ("tokens", "flops"):
        raise ConfigError(f"equal must be 'tokens' or 'flops', not {equal!r}")
    names = [registered_name(name) for name in compressors] if compressors else compressors
    where, recipe = resolve_device(device), Recipe((frames, frames), data_seed, split, difficulty, style)
    shards, found = None if data is None else resolve_shards(data), find_host(host, revision)
    if not found.is_tinyhost and (shards is None or shards.kind != FEATURES):
        find_torchvision()
    from .run import run_ablation

    config = AblationConfig(
        out=Path(out),
        host=found,
        device=where,
        dtype=dtype,
        compressors=names,
        adapters=adapters or [],
        params=params or {},
        budgets=list({repr(budget): budget for budget in checked}.values()),  # 1 token and 1.0 are two budgets
        equal=equal,
        seeds=list(dict.fromkeys(seeds or [0])),
        oracle=oracle,
        rows=rows or [],
        recipe=recipe,
        data=shards,
        videos=videos,
        frames=frames,
        exclude=exclude or [],
        batch_size=batch_size,
        baseline=baseline,
        kept_videos=drill,
        cache=Path(cache) if cache else Path(out) / CACHE,
        allow_other_host=allow_other_host,
        max_damaged=max_damaged,
    )
    return run_ablation(config)


@functools.wraps(ablate)  # the options of the command are its parameters
def ablate_command(**options: Any) -> None:
    table = ablate(**options)
    print(table if table.is_writer else f"report: {table.report}, written by another process")
