"""The ablation itself: who takes part, which cells there are, running them, the report.

Import this after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`, if the host needs it.
"""

from __future__ import annotations

from itertools import product

from framefold.errors import ConfigError
from framefold.evaluation.report.report import report
from framefold.evaluation.results.cells import FOLDER, stored_cells
from framefold.evaluation.results.provenance import host_digest
from framefold.evaluation.results.settings import ORACLE, REPORT, Settings, check_comparable
from framefold.messages import nearest
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host

from .config import AblationConfig
from .feature_cache import FeatureCache
from .heldout import Shards, Source, Synthetic
from .methods import AnyMethod, methods_of, source_digest
from .runner import Cell, Grid


def run_ablation(wanted: AblationConfig) -> None:
    """Run the cells that are not there, and write the report.

    Raises:
        See :func:`~framefold.evaluation.ablation.ablate.ablate`.
    """
    rows, source = _prepared(wanted)
    host = load_host(wanted.host, dtype=wanted.dtype)
    host.model.to(wanted.device)
    for row in rows:
        row.check_host(host, wanted.host.folder, wanted.allow_other_host)
    base = _base(wanted, host, source)
    cells = [Cell(row, settings) for row in rows for settings in row.cells(wanted.budgets, wanted.seeds, base)]
    others = stored_cells(wanted.out, without={cell.settings.file for cell in cells})
    plain = [cell.settings.plain() for cell in cells] + [cell["settings"] for cell in others]
    check_comparable(plain, wanted.out / FOLDER)
    key = {"host": base.host_weights, "dtype": base.dtype, "device": wanted.device.type, "code": source_digest()}
    attention = any(row.needs_attention for row in rows)
    features = FeatureCache(wanted.cache, host, source, key, attention)
    work = Grid(wanted.out, host, wanted.host.folder, features, cells, wanted.batch_size, wanted.drill)
    shared = work.run()
    with work.lock():
        if shared and work.is_reported():
            print(f"report: {wanted.out / REPORT}, by another process")
        else:
            report(str(wanted.out), wanted.baseline)


def _prepared(wanted: AblationConfig) -> tuple[list[AnyMethod], Source]:
    """Who takes part, and the videos; everything that can be wrong without a host is found out here."""
    rows = methods_of(wanted.compressors, wanted.adapters, wanted.params, wanted.oracle, wanted.data is None)
    for row, seed in product(rows, wanted.seeds):
        row.build(wanted.budgets[0], seed)
    names = [row.row for row in rows]
    if wanted.baseline is not None and wanted.baseline not in names:
        near = nearest(wanted.baseline, names)
        raise ConfigError(f"no row {wanted.baseline!r} to compare with{near}: {', '.join(names)}")
    data = wanted.data
    source = Synthetic(wanted.recipe, wanted.videos) if data is None else Shards(data, wanted.videos, wanted.frames)
    _check_types(wanted.exclude, source.types)
    if not source.evidence and ORACLE in names:
        print("ablation: no evidence is annotated in these shards, so there is no oracle")
        rows = [row for row in rows if row.row != ORACLE]
    return rows, source


def _base(wanted: AblationConfig, host: Host, source: Source) -> Settings:
    """What all cells have in common."""
    weights, dtype = host_digest(wanted.host.folder), str(host.model.dtype).removeprefix("torch.")
    return Settings("", {}, None, 1.0, 0, wanted.host.name, weights, dtype, source.describe(), wanted.exclude)


def _check_types(exclude: list[str], types: set[str]) -> None:
    unknown = [kind for kind in exclude if kind not in types]
    if unknown:
        raise ConfigError(f"no question type {unknown[0]!r} to exclude{nearest(unknown[0], sorted(types))}")
    if set(exclude) == types:
        raise ConfigError("exclude leaves no question type for the headline")
