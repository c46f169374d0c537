"""Evidence that ``exact`` and ``official`` keep with the release's number of tokens: ``framefold bench variants``.

The official variant runs first, at a nominal ratio; the exact one then gets the number of tokens that it returned for
the same video. This module must not import transformers before torchvision is found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from framefold.adapters.base.build import build
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import check_budget
from framefold.adapters.core.parameters import check_params
from framefold.adapters.core.registry import compressor_class, list_compressors
from framefold.adapters.core.tokens import Compressed, VideoTokens
from framefold.data.synthetic.difficulty import Difficulty
from framefold.data.synthetic.recipe import Recipe
from framefold.errors import ConfigError, FramefoldError
from framefold.evaluation.metrics.evidence import KeptEvidence
from framefold.evaluation.metrics.statistics import Interval, clustered_mean
from framefold.evaluation.results.formats import percent, share_percent
from framefold.files import write_json
from framefold.progress import progress_bar
from framefold.training.frozen_host.device import resolve_device
from framefold.training.frozen_host.locate import find_host
from framefold.training.frozen_host.torchvision import find_torchvision

if TYPE_CHECKING:
    from framefold.training.frozen_host.host import Host

    from .batches import HeldOutBatch
    from .feature_cache import FeatureCache

EXACT, OFFICIAL = "exact", "official"

MEASURES = ("recall", "purity")

Measurement = dict[str, Any]


@dataclass(frozen=True)
class QuestionPair:
    """What both variants keep of the evidence of a question.

    Attributes:
        cluster: cluster of the video.
        tokens: number of kept tokens of both.
        recall: evidence recall of the official and of the exact variant.
        purity: evidence purity of both, in the same order.
    """

    cluster: int
    tokens: int
    recall: tuple[float, float]
    purity: tuple[float, float]


class VariantPair:
    """A compressor that runs both variants, the exact one with as many tokens as the official one has returned.

    Args:
        name: registered name.
        ratio: budget of the official variant.
        params: other parameters of both.

    Attributes:
        kept: what the official and the exact variant kept of each video so far; None if the official one failed.
        error: what the official one said when it last failed.
    """

    def __init__(self, name: str, ratio: float, params: dict[str, Any]) -> None:
        self.official, self.exact = (
            build(name, ratio, **params, variant=variant).eval() for variant in (OFFICIAL, EXACT)
        )
        self.query_aware, self.needs_attention = self.official.query_aware, self.official.needs_attention
        self.kept: list[tuple[KeptEvidence, KeptEvidence] | None] = []
        self.error = ""

    def __call__(self, video: VideoTokens, query: Tensor | None = None) -> Compressed:
        try:
            official = self.official(video, query)
        except FramefoldError as error:
            self.kept.append(None)
            self.error = str(error)
            return Compressed(video)
        self.exact.budget = len(official.tokens)
        exact = self.exact(video, query)
        self.kept.append((KeptEvidence.of(official.tokens), KeptEvidence.of(exact.tokens)))
        return exact


def bench_variants(
    compressors: list[str] | None = None,
    budgets: list[float] = [0.25, 0.1, 0.05],  # noqa: B006 (read only; a list for the command line)
    params: dict[str, dict[str, Any]] | None = None,
    host: str = "checkpoints/tinyhost",
    videos: int = 300,
    frames: int = 64,
    data_seed: int = 0,
    split: str = "test",
    difficulty: str | Difficulty = "hard",
    cache: str | None = None,
    device: str | None = None,
    out: str | None = None,
) -> list[Measurement]:
    """Compare the evidence that exact and official variants keep of the same videos with equally many tokens.

    The evidence recall of a question is the share of the visual tokens with its evidence that went into a kept token,
    the purity says how diluted it is there. Both variants see the same videos, so their difference is paired; its 95 %
    interval is bootstrapped over pairs of twin videos. The host only encodes.

    Args:
        compressors: registered names; by default all without weights that have an official variant.
        budgets: retention ratios of the official variants, whose numbers of tokens may be quite different.
        params: parameters of both variants that differ from their defaults, by name.
        host: folder of the host, or its id on the Hub, if it has been downloaded.
        videos: number of synthetic videos; the defaults are those of the configuration ablation/default.
        frames: length of each video.
        data_seed: seed of the videos.
        split: split of the videos: train, val or test.
        difficulty: easy, hard, crowded, or the fields of data.synthetic.difficulty.Difficulty.
        cache: folder of encoded videos, such as that of an ablation; by default they are not kept.
        device: cpu, cuda or cuda:1; by default a GPU if there is one.
        out: output folder for variants.json.

    Returns:
        One dictionary per compressor and budget: compressor, budget, questions, tokens (mean), recall_exact,
        recall_official, recall_difference (value, low, high), the same of the purity, failed (videos that the official
        variant refused) and error.

    Raises:
        ConfigError, BudgetError, UnknownCompressorError: a setting is out of range, or a compressor has no official
            variant; raised before any work.
        HostError: there is no such host.
    """
    pairs = _pairs(compressors, budgets, params or {})
    if videos < 1:
        raise ConfigError(f"videos must be positive, got {videos}")
    where, recipe, found = (
        resolve_device(device),
        Recipe((frames, frames), data_seed, split, difficulty),
        find_host(host),
    )
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
    if not found.is_tinyhost:
        find_torchvision()
    from framefold.evaluation.results.provenance import host_digest
    from framefold.training.frozen_host.load import load_host

    from .batches import Batches
    from .feature_cache import FeatureCache
    from .heldout import SyntheticVideos
    from .methods import asking_digest

    loaded = load_host(found)
    loaded.model.to(where)
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    key = {"host": host_digest(found.folder), "dtype": dtype, "device": where.type, "code": asking_digest()}
    attention = any(pair.needs_attention for _, _, pair in pairs)
    with tempfile.TemporaryDirectory() as temporary:
        source = SyntheticVideos(recipe, videos)
        features = FeatureCache(Path(cache or temporary), loaded, source, key, attention)
        _fill(features)
        batches = Batches(loaded, features, 8)
        rows = [
            _measure(loaded, batches, name, budget, pair)
            for name, budget, pair in progress_bar(pairs, "bench variants", unit="variant", leave=False)
        ]
    print(_table(rows))
    if out is not None:
        write_json(Path(out) / "variants.json", {"data": source.describe(), "host": host, "rows": rows})
    return rows


def has_official_variant(cls: type[Compressor]) -> bool:
    """Return whether a class has a parameter ``variant`` that can be "official"."""
    try:
        return bool(check_params(cls, {"variant": OFFICIAL}))
    except ConfigError:
        return False


def _pairs(
    names: list[str] | None, budgets: list[float], params: dict[str, dict[str, Any]]
) -> list[tuple[str, float, VariantPair]]:
    """Build all variants; raise every error that needs no host."""
    known = [name for name in list_compressors(trainable=False) if has_official_variant(compressor_class(name))]
    known = [name for name in known if build(name).in_llm is None]
    chosen = known if names is None else names
    without = [name for name in chosen if not has_official_variant(compressor_class(name))]
    if without:
        raise ConfigError(f"{without[0]} has no official variant; those that have one: {', '.join(known)}")
    ratios = [check_budget(float(budget)) for budget in budgets]
    return [(name, ratio, VariantPair(name, ratio, params.get(name, {}))) for name in chosen for ratio in ratios]


def _fill(features: FeatureCache) -> None:
    with progress_bar(what="encoding videos", total=len(features.source), unit="video", leave=False) as bar:
        features.fill(lambda done: bar.update(done - bar.n))


@torch.no_grad()
def _measure(host: Host, batches: Iterable[HeldOutBatch], name: str, budget: float, pair: VariantPair) -> Measurement:
    questions: list[QuestionPair] = []
    failed = 0
    for batch in batches:
        found, missing = _compare(host, batch, pair)
        questions += found
        failed += missing
    row: Measurement = {"compressor": name, "budget": budget, "questions": len(questions), "failed": failed}
    row["error"] = pair.error
    if questions:
        row["tokens"] = sum(one.tokens for one in questions) / len(questions)
        clusters = [one.cluster for one in questions]
        for measure in MEASURES:
            official, exact = np.array([getattr(one, measure) for one in questions]).T
            interval = clustered_mean(exact - official, clusters)
            row[f"{measure}_exact"], row[f"{measure}_official"] = float(exact.mean()), float(official.mean())
            row[f"{measure}_difference"] = [interval.value, interval.low, interval.high]
    return row


def _compare(host: Host, batch: HeldOutBatch, pair: VariantPair) -> tuple[list[QuestionPair], int]:
    """Return the pairs of the questions of a batch that have evidence, and the number of videos that failed."""
    from framefold.training.frozen_host.batch import compress_batch

    encoded = batch.encoded.one_video_per_question() if pair.query_aware else batch.encoded
    pair.kept.clear()
    compress_batch(host, pair, encoded)
    owners, prompts = batch.encoded.rows.video.tolist(), encoded.rows.video.tolist()
    questions = []
    for evidence, owner, prompt in zip(batch.evidence, owners, prompts, strict=True):
        kept = pair.kept[prompt]
        if kept is not None and evidence.any():
            recall, purity = (tuple(getattr(one, measure)(evidence) for one in kept) for measure in MEASURES)
            questions.append(QuestionPair(batch.clusters[owner], kept[0].tokens, recall, purity))
    return questions, sum(kept is None for kept in pair.kept)


def _table(rows: list[Measurement]) -> str:
    head = "".join(f"  {f'{measure}: exact':>13} {'official':>8}  {'exact - official':<22}" for measure in MEASURES)
    lines = [f"{'compressor':<16} {'budget':>6} {'tokens':>7}{head}".rstrip()]
    for row in rows:
        start = f"{row['compressor']:<16} {row['budget']:>6g}"
        if row["questions"]:
            lines.append(
                f"{start} {row['tokens']:7.1f}{''.join(_cells(row, measure) for measure in MEASURES)}".rstrip()
            )
        if row["failed"]:
            lines.append(f"{start} official refused {row['failed']} videos: {row['error']}")
    return "\n".join(lines)


def _cells(row: Measurement, measure: str) -> str:
    exact, official = (share_percent(row[f"{measure}_{variant}"]) for variant in (EXACT, OFFICIAL))
    difference = percent(Interval(*row[f"{measure}_difference"]), sign=True)
    return f"  {exact:>13} {official:>8}  {difference:<22}"
