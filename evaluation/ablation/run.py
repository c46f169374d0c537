"""Run an ablation: methods, their results, the report.

Import this module after :func:`~framefold.training.frozen_host.torchvision.find_torchvision`, if the host needs that.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from framefold.data.shards.index import FEATURES
from framefold.errors import ConfigError
from framefold.evaluation.report.page import PAGE
from framefold.evaluation.report.report import write_report
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.left_out import read_left_out
from framefold.evaluation.results.provenance import host_digest
from framefold.evaluation.results.result_files import FOLDER, read_results, stored_files
from framefold.evaluation.results.settings import ORACLE, REPORT, Settings, check_comparable
from framefold.messages import nearest
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host

from .ablation_table import AblationTable
from .config import AblationConfig
from .feature_cache import FeatureCache
from .heldout import HeldOutSource, ShardVideos, SyntheticVideos
from .methods import Method, asking_digest
from .row_methods import AnyMethod, ResizedFrames, methods_of
from .runner import AblationRunner, Trial


def run_ablation(config: AblationConfig) -> AblationTable:
    """Compute the missing results and write the report, unless another process that shared the work has done so.

    Raises:
        See :func:`~framefold.evaluation.ablation.ablate.ablate`.
    """
    methods, source = _resolve(config)
    host = load_host(config.host, dtype=config.dtype, device=config.device)
    host.model.to(config.device)
    for method in methods:
        method.check_host(host, config.host.folder, config.allow_other_host)
    base = _common_settings(config, host, source)
    trials = [
        Trial(method, settings)
        for method in methods
        for settings in method.result_settings(config.budgets, config.seeds, base)
    ]
    others = stored_files(config.out, without={trial.settings.file for trial in trials})
    every = [trial.settings.to_dict() for trial in trials] + [content["settings"] for _, content in others]
    check_comparable(every, config.out / FOLDER)
    key = {"host": base.host_weights, "dtype": base.dtype, "device": config.device.type, "code": asking_digest()}
    attention = any(method.needs_attention for method in methods)
    features = FeatureCache(config.cache, host, source, key, attention, config.max_damaged)
    runner = AblationRunner(
        config.out, host, config.host.folder, features, trials, config.batch_size, config.kept_videos
    )
    shared = runner.run()
    with runner.report_lock():
        is_writer = not (shared and runner.is_reported())
        table = ResultTable(read_results(config.out), config.baseline, read_left_out(config.out))
        if is_writer:
            write_report(table, config.out)
    return AblationTable(table, config.out / REPORT, config.out / PAGE, is_writer)


def _resolve(config: AblationConfig) -> tuple[list[AnyMethod], HeldOutSource]:
    """Resolve methods and videos; raise every error that can be found without a host."""
    methods = methods_of(
        config.compressors, config.adapters, config.params, config.oracle, config.data is None, config.rows
    )
    if config.equal == "flops":
        methods = [replace(one, equal_flops=one.acts_in_llm) if isinstance(one, Method) else one for one in methods]
    for method, seed in product(methods, config.seeds):
        method.build(config.budgets[0], seed)
    names = [method.name for method in methods]
    if config.baseline is not None and config.baseline not in names:
        near = nearest(config.baseline, names)
        raise ConfigError(f"there is no method {config.baseline!r} to be the baseline{near}: {', '.join(names)}")
    source: HeldOutSource = SyntheticVideos(config.recipe, config.videos)
    if config.data is not None:
        source = ShardVideos(config.data, config.videos, config.frames)
    _check_types(config.exclude, source.types)
    if not source.evidence and ORACLE in names:
        print("ablation: no evidence is annotated in these shards, so there is no oracle")
        methods = [method for method in methods if method.name != ORACLE]
    if config.data is not None and config.data.kind == FEATURES:
        smaller = [method.name for method in methods if isinstance(method, ResizedFrames)]
        methods = [method for method in methods if not isinstance(method, ResizedFrames)]
        if smaller:
            print(f"ablation: these shards contain features, so there are no smaller frames: {', '.join(smaller)}")
    return methods, source


def _common_settings(config: AblationConfig, host: Host, source: HeldOutSource) -> Settings:
    """Return the settings that all results share; method, budget and seed are placeholders."""
    weights, dtype = host_digest(config.host.folder), str(host.model.dtype).removeprefix("torch.")
    return Settings("", {}, None, 1.0, 0, config.host.name, weights, dtype, source.describe(), config.exclude)


def _check_types(exclude: list[str], types: set[str]) -> None:
    unknown = [kind for kind in exclude if kind not in types]
    if unknown:
        raise ConfigError(f"no question type {unknown[0]!r} to exclude{nearest(unknown[0], sorted(types))}")
    if set(exclude) == types:
        raise ConfigError("exclude leaves no question type for the headline accuracy")
