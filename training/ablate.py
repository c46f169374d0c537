"""The ablation: compressors x budgets x seeds on held-out videos, one results file a cell, then the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.progress import track

from ..adapters import Compressor, build, list_compressors
from ..adapters.chain import Chain, counterpart_params
from ..adapters.errors import ConfigError
from ..adapters.folder import load_folder, read_config
from ..adapters.hosts.lora_folder import has_lora, read_lora
from ..adapters.hub import resolve
from ..adapters.ops import budget_tokens, check_budget
from ..adapters.params import init_params, nearest
from ..adapters.registry import JOINT, get
from ..data.difficulty import Difficulty, difficulty_of
from ..data.samples import Recipe
from ..data.synthetic import QUESTION_TYPES
from .digests import code_digest, host_digest
from .heldout import HeldOut, held_out, put, put_to_event_oracle, put_to_oracle
from .hostio import Host, load_host
from .lora import adapter_digest, tuned
from .lora_settings import shape_of
from .report import FULL, ORACLE, ORACLES, WITH_LORA, report
from .results import FOLDER, Settings, check_comparable, read_cell, stored_cells, write_cell


@dataclass(frozen=True)
class Entrant:
    """A row of the table before budgets and seeds: how to build it, and what identifies its weights."""

    name: str
    params: dict[str, Any]
    folder: str | None = None
    weights: str | None = None
    seed: int | None = None  # that an adapter was trained with
    lora: dict[str, Any] | None = None  # what that of an adapter is made of; the host runs with it

    @property
    def row(self) -> str:
        """Its name in the table."""
        return self.name + (WITH_LORA if self.lora else "")

    @property
    def all_params(self) -> dict[str, Any]:
        """Parameters of the compressor, and what its LoRA is made of."""
        return {**self.params, "lora": self.lora} if self.lora else self.params

    def plugged_into(self, host: Host, folder: str) -> AbstractContextManager[None]:
        """The host, which lies in ``folder``, with the adapter's LoRA if there is any; afterwards as it was."""
        return tuned(host, Path(str(self.folder)), Path(folder)) if self.lora else nullcontext()

    def build(self, budget: float | int, seed: int) -> Compressor:
        if self.folder is not None:
            return load_folder(self.folder, budget=budget).eval()
        return build(self.name, budget, **_seeded(get(self.name), self.params, seed)).eval()


def ablate(
    out: str,
    host: str = "checkpoints/tinyhost",
    compressors: list[str] | None = None,
    adapters: list[str] | None = None,
    params: dict[str, dict[str, Any]] | None = None,
    budgets: list[int | float] | None = None,  # in this order: the command line tries types from the left
    seeds: list[int] | None = None,
    oracle: bool = True,
    videos: int = 150,
    frames: int = 64,
    data_seed: int = 0,
    split: str = "test",
    difficulty: str | Difficulty = "easy",
    style: str = "normal",
    exclude: list[str] | None = None,
    batch_size: int = 8,
) -> None:
    """Compare compressors at equal budgets on held-out videos; finished cells are not run again.

    Args:
        out: folder for cells/*.json, report.md and accuracy.png.
        host: folder of the host.
        compressors: registered names; all of them by default. Trainable ones take part through their adapters.
        adapters: trained compressors, as folders or by their names on the Hub; those of one compressor are one row, if
            they differ only in the seed of their training. With LoRA they are a row of their own, such as
            "storm (LoRA)", for whose cells, and no others, the host runs with that LoRA.
        params: constructor parameters by compressor name; an adapter's training-free counterpart gets the adapter's.
        budgets: retention ratios (floats) or tokens per video (ints).
        seeds: of compressors that draw, such as random; the others run once.
        oracle: add a row that keeps each question's annotated evidence, and one that keeps all events.
        videos: number of held-out videos; frames: of each.
        data_seed: of the videos; split: train, val or test.
        difficulty: easy, hard, or settings of data.difficulty.Difficulty; style: normal or held_out.
        exclude: question types to leave out of the headline.
        batch_size: videos per forward of the language model.

    Raises:
        UnknownCompressorError: a wrong name; ConfigError: a wrong parameter, seed or question type, or two adapters
            that cannot be one row; BudgetError: a wrong budget.
        ResultsError: the folder holds cells, other than those to be made, that cannot stand in one table with them.
        HostError: no host there; AdapterFileError: a damaged adapter; DataError: no such split or too few frames.
    """
    folder, seeds = Path(out), list(dict.fromkeys(seeds or [0]))
    grid = [check_budget(b) for b in budgets or [0.5, 0.25, 0.1, 0.05, 0.02]]
    grid = list({repr(budget): budget for budget in grid}.values())  # 1 and 1.0 are two
    entrants = list(_entrants(compressors, adapters or [], params or {}))
    for entrant, seed in product(entrants, seeds):
        entrant.build(grid[0], seed)  # wrong parameters are found before the host is loaded
    if videos < 1 or batch_size < 1:
        raise ConfigError(f"videos and batch_size must be positive, got {videos} and {batch_size}")
    _check_types(exclude or [])
    recipe = Recipe((frames, frames), data_seed, split, difficulty, style)
    frozen = load_host(host)
    for entrant in entrants:
        with entrant.plugged_into(frozen, host):
            pass  # LoRA of another host is found before the work
    hard = difficulty_of(difficulty).plain()
    base = Settings(
        "",
        {},
        None,
        1.0,
        0,
        host,
        host_digest(Path(host)),
        videos,
        frames,
        data_seed,
        split,
        exclude or [],
        hard,
        style,
    )
    cells = list(_cells(entrants, grid, seeds, base, oracle))
    others = stored_cells(folder, without={s.file for _, s in cells})
    check_comparable([asdict(s) for _, s in cells] + [cell["settings"] for cell in others], folder)
    todo = [(entrant, s) for entrant, s in cells if read_cell(folder, s) is None]
    print(f"ablation: {len(cells)} cells, {len(cells) - len(todo)} already there")
    if todo:
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)  # a folder that cannot be is found out before the work
        attention = any(entrant is not None and get(entrant.name).needs_attention for entrant, _ in todo)
        made = held_out(frozen, recipe, videos, batch_size, attention)
        batches = list(track(made, "encoding held-out videos", total=-(-videos // batch_size)))
        for row, settings in track(todo, "cells"):
            with row.plugged_into(frozen, host) if row is not None else nullcontext():
                rows, cost = _run(frozen, row, settings, batches)
            write_cell(folder, settings, rows, cost)
    report(out)


def _run(
    host: Host, entrant: Entrant | None, settings: Settings, batches: list[HeldOut]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    if entrant is None:
        oracle = put_to_oracle if settings.compressor == ORACLE else put_to_event_oracle
        return oracle(host, batches, partial(budget_tokens, settings.budget))
    return put(host, entrant.build(settings.budget, settings.seed), batches)


def _entrants(names: list[str] | None, adapters: list[str], params: dict[str, dict[str, Any]]) -> Iterator[Entrant]:
    """Adapters first, then the registered names; a trainable name without an adapter is announced and left out."""
    trained: dict[str, Entrant] = {}  # by row
    seeds: dict[tuple[str, int], str] = {}
    for path in adapters:
        one = _adapter(path)
        if one.name in params:
            raise ConfigError(f"the parameters of {one.name} are those of its adapter: leave them out of params")
        if trained.setdefault(one.row, one).all_params != one.all_params:
            raise ConfigError(f"{path} and another adapter of {one.row} have different parameters: they are no one row")
        key = one.row, one.seed or 0
        if key in seeds:
            raise ConfigError(
                f"{seeds[key]} and {path} are both {one.row} trained with seed {one.seed}: give one of them"
            )
        seeds[key] = path
        yield one
    own = sorted(trained.values(), key=lambda one: one.lora is None)  # those without LoRA have the last word
    starts = [(one, cls) for one in own if (cls := get(one.name)).counterpart]
    shared = {str(cls.counterpart): counterpart_params(cls, one.params) for one, cls in starts}
    for name in params:
        if JOINT not in name and name not in list_compressors():
            raise ConfigError(f"params name no compressor {name!r}{nearest(name, list_compressors())}")
        get(name)  # the stages of a chain are named as well
    for name in dict.fromkeys(names or list_compressors()):
        cls = get(name)
        if name in trained or cls.trainable and name in {one.name for one in own}:
            continue
        if cls.trainable:
            if names:
                raise ConfigError(f"{name} cannot take part: no adapter of it was given")
            print(f"ablation: {name} is left out: no adapter of it was given")
            continue
        known = init_params(cls)
        inherited = {key: value for key, value in shared.get(name, {}).items() if key in known}
        yield Entrant(name, inherited | params.get(name, {}))


def _adapter(path: str) -> Entrant:
    path = resolve(path)
    folder = Path(path)
    compressor = load_folder(folder)
    lora = shape_of(read_lora(folder)) if has_lora(folder) else None
    return Entrant(compressor.name, compressor.params(), path, adapter_digest(folder), _training_seed(path), lora)


def _training_seed(folder: str) -> int:
    training = read_config(Path(folder)).get("training")
    seed = training.get("seed") if isinstance(training, dict) else None
    return seed if isinstance(seed, int) else 0


def _seeded(cls: type[Compressor], params: dict[str, Any], seed: int) -> dict[str, Any]:
    """Parameters with the seed wherever a method, or a stage of a chain, draws and has no seed of its own."""
    if issubclass(cls, Chain):
        stages = zip(cls.labels, cls.parts, strict=True)
        return {label: _seeded(part, params.get(label, {}), seed) for label, part in stages}
    return {"seed": seed, **params} if "seed" in init_params(cls) else dict(params)


def _cells(
    entrants: list[Entrant], budgets: list[float | int], seeds: list[int], base: Settings, oracle: bool
) -> Iterator[tuple[Entrant | None, Settings]]:
    for entrant in entrants:
        cls = get(entrant.name)
        common = replace(
            base, compressor=entrant.row, params=entrant.all_params, adapter=entrant.weights, code=code_digest(cls)
        )
        if not cls.exact_budget:  # identity: the row of full tokens
            yield entrant, replace(common, budget=1.0)
            continue
        draws = _seeded(cls, entrant.params, 0) != _seeded(cls, entrant.params, 1)
        for budget in budgets:
            for seed in seeds if draws else [entrant.seed or 0]:
                yield entrant, replace(common, budget=budget, seed=seed)
    if FULL not in {entrant.row for entrant in entrants}:
        yield Entrant(FULL, {}), replace(base, compressor=FULL, code=code_digest(get(FULL)))
    for row, budget in product(ORACLES if oracle else (), budgets):
        yield None, replace(base, compressor=row, budget=budget, code=code_digest())


def _check_types(exclude: list[str]) -> None:
    unknown = [kind for kind in exclude if kind not in QUESTION_TYPES]
    if unknown:
        raise ConfigError(f"no question type {unknown[0]!r} to exclude{nearest(unknown[0], QUESTION_TYPES)}")
    if set(exclude) == set(QUESTION_TYPES):
        raise ConfigError("exclude leaves no question type for the headline")
