"""Methods of an ablation that are no compressors: oracles, smaller and fewer frames, controls.

:data:`ROWS` declares those that the option ``rows`` of ``framefold ablate`` names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.core.registry import list_compressors
from framefold.errors import ConfigError
from framefold.evaluation.metrics.timing import Compress
from framefold.evaluation.results.provenance import code_digest
from framefold.evaluation.results.settings import BLIND, EVENT_ORACLE, FULL, ONE_FRAME, ORACLE, RESIZE, Settings
from framefold.evaluation.rows import controls, fewer_frames, keep_evidence, resized
from framefold.files import text_digest
from framefold.messages import nearest
from framefold.training.frozen_host.host import Host

from .methods import Method, registered_methods, source_digest

Grid = tuple[int, int, int]

SIDES = (0.75, 0.5, 0.25)  # of the smaller frames of the grid of frames and tokens per frame; 1 is uniform

TIMES = (2, 4)  # frames of reinvested budgets, in those that fit without compression


@dataclass(frozen=True)
class PlainRow:
    """A method without parameters, weights and seeds.

    Attributes:
        name: name of the method in tables.
    """

    name: str
    lora_key: str = ""
    needs_attention: bool = False

    def apply_lora(self, host: Host, host_folder: Path) -> AbstractContextManager[None]:
        """Leave the host as it is."""
        return nullcontext()

    def check_host(self, host: Host, host_folder: Path, allow_other_host: bool) -> None:
        """Accept every host."""

    def check_possible(self, budget: float | int, grids: Iterable[Grid]) -> None:
        """Accept every budget."""

    def build(self, budget: float | int, seed: int) -> Compress:
        """Return the compressor at a budget."""
        raise NotImplementedError

    def result_settings(
        self, budgets: Sequence[float | int], seeds: Sequence[int], base: Settings
    ) -> Iterator[Settings]:
        """Yield the settings of one result per budget."""
        code = text_digest(source_digest() + code_digest(type(self).__module__))
        yield from (replace(base, compressor=self.name, budget=budget, code=code) for budget in budgets)


@dataclass(frozen=True)
class Oracle(PlainRow):
    """An upper bound that knows the evidence, see :class:`~framefold.evaluation.rows.keep_evidence.KeepEvidence`."""

    def build(self, budget: float | int, seed: int) -> Compress:
        """Return a compressor that must be given each batch before its calls."""
        return keep_evidence.KeepEvidence(partial(budget_tokens, budget), query_aware=self.name == ORACLE)


@dataclass(frozen=True)
class Control(PlainRow):
    """A method that has no budget, see :mod:`framefold.evaluation.rows.controls`."""

    def build(self, budget: float | int, seed: int) -> Compress:
        """Return the control."""
        return controls.OneFrame() if self.name == ONE_FRAME else controls.Blind()

    def result_settings(
        self, budgets: Sequence[float | int], seeds: Sequence[int], base: Settings
    ) -> Iterator[Settings]:
        """Yield the settings of its only result."""
        yield from super().result_settings([1.0], seeds, base)


@dataclass(frozen=True)
class ResizedFrames(PlainRow):
    """Smaller frames, see :class:`~framefold.evaluation.rows.resized.Resized`.

    Attributes:
        side: side of a frame as a share of that of the host's frames; 0 for the smallest at which all frames fit.
    """

    side: float = 0

    def build(self, budget: float | int, seed: int) -> resized.Resized:
        """Return the compressor; its rows must be set to :meth:`rows` before it is called."""
        return resized.Resized(budget, 1)

    def rows(self, budget: float | int, grids: Iterable[Grid]) -> dict[tuple[int, int], int]:
        """Return the number of rows of a smaller frame for each (H, W) of the videos."""
        by_size: dict[tuple[int, int], list[Grid]] = {}
        for grid in grids:
            by_size.setdefault(grid[1:], []).append(grid)
        if not self.side:
            return {size: resized.fitting_rows(ones, budget) for size, ones in by_size.items()}
        return {size: max(1, round(self.side * size[0])) for size in by_size}

    def check_possible(self, budget: float | int, grids: Iterable[Grid]) -> None:
        """Check that videos have enough frames.

        Raises:
            BudgetError: one has not.
        """
        known = list(grids)
        rows = self.rows(budget, known) if self.side else {}
        for size, number in rows.items():
            resized.check_fits([grid for grid in known if grid[1:] == size], budget, number)


@dataclass(frozen=True)
class Reinvested:
    """A method that gets fewer frames, see :class:`~framefold.evaluation.rows.fewer_frames.FewerFrames`.

    Attributes:
        method: the method of all frames.
        times: number of frames, in those that the budget could hold without compression.
    """

    method: Method
    times: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"{self.method.name} ({self.times}x frames)"

    def check_possible(self, budget: float | int, grids: Iterable[Grid]) -> None:
        """Check that videos have enough frames.

        Raises:
            BudgetError: one has not.
        """
        fewer_frames.check_frames(grids, budget, self.times)

    def build(self, budget: float | int, seed: int) -> Compress:
        """Return the compressor at a budget, in eval mode."""
        return fewer_frames.FewerFrames(self.method.build(1.0, seed), budget, self.times).eval()

    def result_settings(
        self, budgets: Sequence[float | int], seeds: Sequence[int], base: Settings
    ) -> Iterator[Settings]:
        """Yield the settings of its results."""
        for one in self.method.result_settings(budgets, seeds, base):
            code = text_digest(one.code + code_digest(fewer_frames.__name__))
            yield replace(one, compressor=self.name, params=one.params | {"frames": f"{self.times}x"}, code=code)


AnyMethod = Method | PlainRow | Reinvested


def _resize(methods: Sequence[Method], of: str) -> list[AnyMethod]:
    return [ResizedFrames(RESIZE)]


def _grid(methods: Sequence[Method], of: str) -> list[AnyMethod]:
    return [ResizedFrames(f"{RESIZE} (side {side:g})", side=side) for side in SIDES]


def _reinvest(methods: Sequence[Method], of: str) -> list[AnyMethod]:
    chosen = [method for method in methods if method.name == of]
    if not chosen and of in list_compressors():
        print(f"ablation: {of} is not compared, so there are no rows of it with more frames (reinvest:{of})")
        return []  # a configuration names the row, and the command compares fewer compressors
    if not chosen:
        names = [method.name for method in methods]
        raise ConfigError(
            f"rows contain 'reinvest:{of}', and there is no method {of!r}{nearest(of, names)}: {', '.join(names)}"
        )
    if chosen[0].acts_in_llm or chosen[0].untrained or of == FULL:
        raise ConfigError(
            f"{of} cannot be reinvested: it acts inside the language model, is untrained, or has no budget"
        )
    return [Reinvested(method, times) for times in TIMES for method in chosen]


def _control(name: str) -> Callable[[Sequence[Method], str], list[AnyMethod]]:
    return lambda methods, of: [Control(name)]


# Name in the option ``rows``, and the methods that it adds. "reinvest:NAME" says of which method.
ROWS: dict[str, Callable[[Sequence[Method], str], list[AnyMethod]]] = {
    "resize": _resize,
    "grid": _grid,
    "reinvest": _reinvest,
    "one_frame": _control(ONE_FRAME),
    "blind": _control(BLIND),
}


def further_rows(rows: Sequence[str], methods: Sequence[Method]) -> list[AnyMethod]:
    """Return the methods that the option ``rows`` adds.

    Args:
        rows: names of :data:`ROWS`, and "reinvest:NAME" with the name of a method.
        methods: adapters and compressors of the ablation.

    Raises:
        ConfigError: there is no such row, or no such method.
    """
    found: dict[tuple[str, int | None], AnyMethod] = {}
    for row in rows:
        name, colon, of = row.partition(":")
        if name not in ROWS or bool(colon) != (name == "reinvest"):
            known = [*(one for one in ROWS if one != "reinvest"), "reinvest:NAME"]
            raise ConfigError(f"there is no row {row!r}{nearest(row, known)}: {', '.join(known)}")
        found |= {(one.name, getattr(one, "seed", None)): one for one in ROWS[name](methods, of)}
    return list(found.values())


def methods_of(
    names: list[str] | None,
    adapters: list[str],
    params: dict[str, dict[str, Any]],
    oracle: bool,
    events: bool,
    rows: Sequence[str] = (),
) -> list[AnyMethod]:
    """Return all methods in the order of the tables: adapters, compressors, all tokens, further rows, oracles.

    Args:
        names: ``compressors`` of :func:`~framefold.evaluation.ablation.ablate.ablate`.
        adapters: as there.
        params: as there.
        oracle: include the oracle of each question's evidence.
        events: include the oracle of all events as well.
        rows: as there.

    Raises:
        UnknownCompressorError, ConfigError, AdapterFileError, HubError: see there.
    """
    methods = list(registered_methods(names, adapters, params))
    if FULL not in {method.name for method in methods}:
        methods.append(Method(FULL, {}))
    oracles = [name for name, included in ((ORACLE, oracle), (EVENT_ORACLE, oracle and events)) if included]
    return [*methods, *further_rows(rows, methods), *map(Oracle, oracles)]
