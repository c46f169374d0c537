"""Who takes part in an ablation: compressors, trained adapters and oracles, and the cells that each of them has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from framefold.adapters.base.build import build
from framefold.adapters.base.chain import Chain, counterpart_params
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.core.budget import budget_tokens
from framefold.adapters.core.parameters import init_params
from framefold.adapters.core.registry import JOINT, get, list_compressors
from framefold.adapters.hosts.hooks.base_model_check import check_base_model
from framefold.adapters.hosts.lora.config import has_lora, read_lora
from framefold.adapters.hosts.lora.digest import adapter_digest
from framefold.adapters.pretrained.config import read_config
from framefold.adapters.pretrained.folder import load_folder
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.errors import ConfigError
from framefold.evaluation.metrics.timing import Compress
from framefold.evaluation.results.provenance import code_digest
from framefold.evaluation.results.settings import EVENT_ORACLE, FULL, ORACLE, WITH_LORA, Settings
from framefold.messages import nearest
from framefold.training.frozen_host.host import Host
from framefold.training.lora import tuned
from framefold.training.lora_settings import shape_of

from . import ask
from .oracles import KeepEvidence


@dataclass(frozen=True)
class Method:
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

    @property
    def changes_host(self) -> str:
        """Tells who changes the host while it runs; "" for nobody."""
        return f"{self.row} {self.weights}" if self.lora else ""

    @property
    def needs_attention(self) -> bool:
        """Whether it needs what tokens received in the vision encoder."""
        return get(self.name).needs_attention

    def plugged_into(self, host: Host, folder: Path) -> AbstractContextManager[None]:
        """The host, which lies in ``folder``, with the adapter's LoRA if there is any; afterwards as it was."""
        return tuned(host, Path(str(self.folder)), folder) if self.lora else nullcontext()

    def check_host(self, host: Host, folder: Path, allow_other_host: bool) -> None:
        """Find out before the work that an adapter is not of this host.

        Raises:
            WrongHostError: it was trained in another one. AdapterFileError: its LoRA was, or does not fit.
        """
        with self.plugged_into(host, folder):
            pass
        if self.folder is not None and not allow_other_host:
            check_base_model(host.model, load_folder(self.folder).base_model, self.folder)

    def build(self, budget: float | int, seed: int) -> Compressor:
        """The compressor at a budget, in eval mode."""
        if self.folder is not None:
            return load_folder(self.folder, budget=budget).eval()
        return build(self.name, budget, **with_seed(get(self.name), self.params, seed)).eval()

    def cells(self, budgets: Sequence[float | int], seeds: Sequence[int], base: Settings) -> Iterator[Settings]:
        """Settings of its cells; without an exact budget there is one, of all tokens."""
        cls = get(self.name)
        common = replace(
            base, compressor=self.row, params=self.all_params, adapter=self.weights, code=source_digest(cls)
        )
        if not cls.exact_budget:
            yield replace(common, budget=1.0)
            return
        draws = with_seed(cls, self.params, 0) != with_seed(cls, self.params, 1)
        for budget in budgets:
            for seed in seeds if draws else [self.seed or 0]:
                yield replace(common, budget=budget, seed=seed)


@dataclass(frozen=True)
class Oracle:
    """A row that is told where the evidence is."""

    row: str
    changes_host: str = ""
    needs_attention: bool = False

    def plugged_into(self, host: Host, folder: Path) -> AbstractContextManager[None]:
        """The host as it is."""
        return nullcontext()

    def check_host(self, host: Host, folder: Path, allow_other_host: bool) -> None:
        """Fits every host."""

    def build(self, budget: float | int, seed: int) -> Compress:
        """It knows the evidence once it is told which batch begins."""
        return KeepEvidence(partial(budget_tokens, budget), asked=self.row == ORACLE)

    def cells(self, budgets: Sequence[float | int], seeds: Sequence[int], base: Settings) -> Iterator[Settings]:
        """One at each budget."""
        yield from (replace(base, compressor=self.row, budget=budget, code=source_digest()) for budget in budgets)


AnyMethod = Method | Oracle


def methods_of(
    names: list[str] | None, adapters: list[str], params: dict[str, dict[str, Any]], oracle: bool, events: bool
) -> list[AnyMethod]:
    """All rows: adapters, compressors, all tokens, oracles.

    Args:
        names, adapters, params: as of :func:`~framefold.evaluation.ablation.ablate.ablate`.
        oracle: evidence is known, and is to be kept. events: so are events.

    Raises:
        UnknownCompressorError, ConfigError, AdapterFileError, HubError: see there.
    """
    rows: list[AnyMethod] = list(registered_methods(names, adapters, params))
    if FULL not in {row.row for row in rows}:
        rows.append(Method(FULL, {}))
    oracles = [name for name, known in ((ORACLE, oracle), (EVENT_ORACLE, oracle and events)) if known]
    return rows + [Oracle(name) for name in oracles]


def registered_methods(
    names: list[str] | None, adapters: list[str], params: dict[str, dict[str, Any]]
) -> Iterator[Method]:
    """Adapters first, then the registered names; a trainable name without an adapter is announced and left out."""
    trained: dict[str, Method] = {}  # by row
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
        yield Method(name, inherited | params.get(name, {}))


def _adapter(source: str) -> Method:
    folder = Path(resolve_adapter(source))
    compressor = load_folder(folder)
    lora = shape_of(read_lora(folder)) if has_lora(folder) else None
    seed = _training_seed(folder)
    return Method(compressor.name, compressor.params(), str(folder), adapter_digest(folder), seed, lora)


def _training_seed(folder: Path) -> int:
    training = read_config(folder).get("training")
    seed = training.get("seed") if isinstance(training, dict) else None
    return seed if isinstance(seed, int) else 0


def with_seed(cls: type[Compressor], params: dict[str, Any], seed: int) -> dict[str, Any]:
    """Parameters with the seed wherever a method, or a stage of a chain, draws and has no seed of its own."""
    if issubclass(cls, Chain):
        stages = zip(cls.labels, cls.parts, strict=True)
        return {label: with_seed(part, params.get(label, {}), seed) for label, part in stages}
    return {"seed": seed, **params} if "seed" in init_params(cls) else dict(params)


def source_digest(compressor: type[Compressor] | None = None) -> str:
    """SHA-256 of the source that makes videos and asks about them, and of a compressor's."""
    return code_digest(ask.__name__, compressor)
