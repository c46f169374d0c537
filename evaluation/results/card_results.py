"""Results of an ablation for a model card: those of exactly the adapter's weights, and those they are compared with."""

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

from .result_files import Result, count_answers, read_results
from .settings import FULL, LORA_SUFFIX, SYNTHETIC


def card_results(folder: str, compressor: Compressor, weights: str | None, lora: bool) -> list[CardResult]:
    """Return the results of an ablation that belong on the card of an adapter.

    Args:
        folder: the ``--out`` folder of ``framefold ablate``.
        compressor: compressor of the adapter.
        weights: :func:`~framefold.adapters.hosts.lora.digest.adapter_digest` of the adapter; None if it has no weights.
        lora: whether the adapter contains LoRA.

    Returns:
        The results of the adapter, of its training-free counterpart and of all tokens, budget by budget.

    Raises:
        ResultsError: there are no results, or none of these weights.
    """
    groups: dict[tuple[str, Any], list[Result]] = defaultdict(list)
    own = compressor.name + (LORA_SUFFIX if lora else "")
    for result in read_results(Path(folder)):
        if result["compressor"] != own or _is_of(result, compressor, weights):
            budget = None if result["compressor"] == FULL else result["budget"]
            groups[result["compressor"], budget].append(result)
    if not any(method == own for method, _ in groups):
        raise ResultsError(
            f"no result in {folder} was measured with these weights of {own}: "
            "run 'framefold ablate --adapters' with the exported folder, then export again"
        )
    methods = list(dict.fromkeys((own, compressor.counterpart, FULL)))
    rows = [
        _card_result(method, method == own, budget, results)
        for (method, budget), results in groups.items()
        if method in methods
    ]
    return sorted(rows, key=lambda row: (methods.index(row.method), -row.tokens))


def _is_of(result: Result, compressor: Compressor, weights: str | None) -> bool:
    """Whether a result was measured with these weights, or with these parameters if there are no weights."""
    settings = result["settings"]
    if weights is not None:
        return bool(settings["adapter"] == weights)
    params = {key: value for key, value in settings["params"].items() if key != "lora"}
    seeded = {"seed": settings["seed"]} if "seed" in compressor.params() else {}  # as in the ablation
    same = build(compressor.name, **compressor.upgrade_params({**seeded, **params})).params()
    return not settings["adapter"] and same == compressor.params()


def _card_result(method: str, own: bool, budget: Any, results: Sequence[Result]) -> CardResult:
    interval, dataset = macro_interval(count_answers(results)), _dataset(results[0]["settings"]["data"])
    value, low, high = (100 * x for x in (interval.value, interval.low, interval.high))
    tokens = sum(result["tokens"] for result in results) / len(results)
    return CardResult(method, own, budget, tokens, value, low, high, results[0]["n"], dataset)


def _dataset(data: dict[str, Any]) -> dict[str, Any]:
    """Return the fields by which the Hub describes the data, without its location."""
    frames = f"{data['videos']} held-out videos of {data['frames']} frames"
    if data["kind"] == SYNTHETIC:
        name = f"{frames}, synthetic ({preset_name(data['difficulty'])}, {data['style']} style)"
        names: tuple[str, ...] = ("videos", "frames", "seed", "style")
        split = {"dataset_split": data["split"]}
    else:
        name, names, split = f"{frames} at most", ("videos", "frames", "digest"), {}
    args = {key: data[key] for key in names}
    return {"dataset_type": f"framefold/{data['kind']}", "dataset_name": name, "dataset_args": args, **split}
