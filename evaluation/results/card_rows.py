"""Rows of an ablation for a model card: those of exactly these weights, and what they are compared with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.pretrained.card import CardResult
from framefold.data.synthetic.difficulty import preset_name
from framefold.errors import ResultsError
from framefold.evaluation.metrics.statistics import macro_interval

from .cells import answers_of, read_cells
from .settings import FULL, SYNTHETIC, WITH_LORA


def measured(results: str, compressor: Compressor, weights: str | None, lora: bool) -> list[CardResult]:
    """The rows of an ablation that belong on the card of an adapter.

    Args:
        results: the ``--out`` folder of ``framefold ablate``.
        compressor: of the adapter. lora: whether there is LoRA beside it.
        weights: :func:`~framefold.adapters.hosts.lora.digest.adapter_digest` of the adapter; None without any.

    Returns:
        The adapter's own row, its training-free counterpart's and that of all tokens, budget by budget.

    Raises:
        ResultsError: no results, or none of these weights.
    """
    groups: dict[tuple[str, Any], list[dict[str, Any]]] = defaultdict(list)
    own = compressor.name + (WITH_LORA if lora else "")
    for cell in read_cells(Path(results)):
        if cell["compressor"] != own or _is_of(cell, compressor, weights):
            budget = None if cell["compressor"] == FULL else cell["budget"]
            groups[cell["compressor"], budget].append(cell)
    if not any(row == own for row, _ in groups):
        raise ResultsError(
            f"no cell in {results} was measured with these weights of {own}: "
            "'framefold ablate --adapters' with the exported folder, then export again"
        )
    rows = dict.fromkeys((own, compressor.counterpart, FULL))
    one = [_measured(row, row == own, budget, cells) for (row, budget), cells in groups.items() if row in rows]
    return sorted(one, key=lambda m: (list(rows).index(m.method), -m.tokens))


def _is_of(cell: dict[str, Any], compressor: Compressor, weights: str | None) -> bool:
    """Whether a cell was measured with these weights, or these parameters where there are none."""
    settings = cell["settings"]
    if weights is not None:
        return bool(settings["adapter"] == weights)
    params = {key: value for key, value in settings["params"].items() if key != "lora"}
    drawn = {"seed": settings["seed"]} if "seed" in compressor.params() else {}  # as the ablation does it
    same = build(compressor.name, **compressor.upgrade_params({**drawn, **params})).params()
    return not settings["adapter"] and same == compressor.params()


def _measured(row: str, own: bool, budget: Any, cells: Sequence[dict[str, Any]]) -> CardResult:
    interval, dataset = macro_interval(answers_of(cells)), _dataset(cells[0]["settings"]["data"])
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    tokens = sum(cell["tokens"] for cell in cells) / len(cells)
    return CardResult(row, own, budget, tokens, value, low, high, cells[0]["n"], dataset)


def _dataset(data: dict[str, Any]) -> dict[str, Any]:
    """What was asked about, for the Hub: its fields, without the folder where it lay."""
    frames = f"{data['videos']} held-out videos of {data['frames']} frames"
    if data["kind"] == SYNTHETIC:
        name = f"{frames}, synthetic ({preset_name(data['difficulty'])}, {data['style']} style)"
        kept: tuple[str, ...] = ("videos", "frames", "seed", "style")
        split = {"dataset_split": data["split"]}
    else:
        name, kept, split = f"{frames} at most", ("videos", "frames", "digest"), {}
    args = {key: data[key] for key in kept}
    return {"dataset_type": f"framefold/{data['kind']}", "dataset_name": name, "dataset_args": args, **split}
