"""Methods of an ablation: compressors and trained adapters, with the results that each of them needs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from framefold.adapters.base.build import build
from framefold.adapters.base.chain import Chain
from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import UNTRAINED_SUFFIX, untrained_text
from framefold.adapters.core.parameters import init_params
from framefold.adapters.core.registry import CHAIN_SEPARATOR, compressor_class, list_compressors
from framefold.adapters.hosts.hooks.base_model_check import check_base_model
from framefold.adapters.hosts.lora.config import has_lora, read_lora
from framefold.adapters.hosts.lora.digest import adapter_digest
from framefold.adapters.pretrained.config import read_config
from framefold.adapters.pretrained.folder import load_folder
from framefold.adapters.pretrained.hub import resolve_adapter
from framefold.errors import ConfigError
from framefold.evaluation.metrics import equal_flops
from framefold.evaluation.results.provenance import code_digest
from framefold.evaluation.results.settings import (
    EQUAL_FLOPS_SUFFIX,
    LABEL,
    LORA_SUFFIX,
    TRAINED_AT,
    Settings,
    compressor_of,
)
from framefold.files import text_digest
from framefold.messages import nearest
from framefold.training.frozen_host.host import Host
from framefold.training.lora import adapter_lora
from framefold.training.lora_settings import structural_fields
from framefold.warning_types import UntrainedCompressorWarning

from . import ask, cost

RESERVED_LABELS = (LORA_SUFFIX, UNTRAINED_SUFFIX, EQUAL_FLOPS_SUFFIX)

REINVESTED_LABEL = re.compile(r" \(\d+x frames\)")  # of the rows that "reinvest:NAME" adds


@dataclass(frozen=True)
class Method:
    """A compressor or a trained adapter, for any budget and seed.

    Attributes:
        compressor: registered name, or a chain of them.
        params: constructor parameters.
        folder: folder of the adapter; None without one.
        weights: SHA-256 of the adapter's weights; None without any.
        seed: seed that the adapter was trained with.
        lora: fields of the adapter's LoRA config that determine what it computes; None without LoRA.
        untrained: it has parameters to learn, and no adapter.
        label: of a row with other parameters than that of the compressor's name; "" without one.
        equal_flops: it gets the operations of each budget instead of its tokens, see
            :mod:`framefold.evaluation.metrics.equal_flops`.
    """

    compressor: str
    params: dict[str, Any]
    folder: str | None = None
    weights: str | None = None
    seed: int | None = None
    lora: dict[str, Any] | None = None
    untrained: bool = False
    label: str = ""
    equal_flops: bool = False

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        suffix = LORA_SUFFIX if self.lora else UNTRAINED_SUFFIX if self.untrained else ""
        label = f" ({self.label})" if self.label else ""
        return self.compressor + label + suffix + (EQUAL_FLOPS_SUFFIX if self.equal_flops else "")

    @property
    def all_params(self) -> dict[str, Any]:
        """Parameters of the compressor, and the fields of its LoRA."""
        return {**self.params, "lora": self.lora} if self.lora else self.params

    @property
    def lora_key(self) -> str:
        """Key of the LoRA that the host has while this method runs; "" without LoRA."""
        return f"{self.name} {self.weights}" if self.lora else ""

    @property
    def needs_attention(self) -> bool:
        """Whether it, or the counterpart of a trained one, needs the attention received in the vision encoder."""
        cls = compressor_class(self.compressor)
        name, params = cls.counterpart_of(self.params) if cls.trainable else (self.compressor, self.params)
        return bool(cls.needs_attention) if name is None else build(name, **params).needs_attention

    def check_possible(self, budget: float | int, grids: Iterable[tuple[int, int, int]]) -> None:
        """Accept every budget; what the layers of a host allow is checked elsewhere."""

    @property
    def acts_in_llm(self) -> bool:
        """Whether it also reduces tokens inside the language model."""
        return self.build(1.0, 0).in_llm is not None

    def apply_lora(self, host: Host, host_folder: Path) -> AbstractContextManager[None]:
        """Give the host, loaded from ``host_folder``, the adapter's LoRA, if any, until the context ends."""
        return adapter_lora(host, Path(str(self.folder)), host_folder) if self.lora else nullcontext()

    def check_host(self, host: Host, host_folder: Path, allow_other_host: bool) -> None:
        """Check that the adapter was trained in this host.

        Raises:
            WrongHostError: it was trained in another host.
            AdapterFileError: its LoRA was trained in another host or does not fit.
        """
        with self.apply_lora(host, host_folder):
            pass
        if self.folder is not None and not allow_other_host:
            check_base_model(host.model, load_folder(self.folder).base_model, self.folder)

    def build(self, budget: float | int, seed: int) -> Compressor:
        """Return the compressor at a budget, in eval mode."""
        if self.folder is not None:
            return load_folder(self.folder, budget=budget).eval()
        params = with_seed(compressor_class(self.compressor), self.params, seed)
        return build(self.compressor, budget, **params).eval()

    def result_settings(
        self, budgets: Sequence[float | int], seeds: Sequence[int], base: Settings
    ) -> Iterator[Settings]:
        """Yield the settings of its results: one, with all tokens, if the method has no exact budget."""
        cls = compressor_class(self.compressor)
        common = replace(base, compressor=self.name, params=self.all_params, adapter=self.weights, code=self._code())
        if not cls.exact_budget:
            yield replace(common, budget=1.0)
            return
        random = self.untrained or with_seed(cls, self.params, 0) != with_seed(cls, self.params, 1)
        for budget in budgets:
            for seed in seeds if random else [self.seed or 0]:
                yield replace(common, budget=budget, seed=seed)

    def _code(self) -> str:
        """Return the digest of the source of the compressor and of others that it builds by their names."""
        cls = compressor_class(self.compressor)
        counterpart, _ = cls.counterpart_of(self.params) if cls.trainable else (None, {})
        parts = {type(part) for part in self.build(1.0, 0).modules() if isinstance(part, Compressor)}
        parts |= set() if counterpart is None else {compressor_class(counterpart)}
        others = sorted(source_digest(part) for part in parts - {cls})
        code = text_digest("".join([source_digest(cls), *others])) if others else source_digest(cls)
        return text_digest(code + code_digest(equal_flops.__name__)) if self.equal_flops else code


def registered_methods(
    names: list[str] | None, adapters: list[str], params: dict[str, dict[str, Any]]
) -> Iterator[Method]:
    """Yield the adapters, then the registered names.

    A trainable compressor without an adapter is left out with a message. If it was asked for by name, it takes part
    untrained, with a warning.
    """
    trained = dict[str, Method]()  # one for each name
    for method in _trained_methods(adapters, params):
        trained.setdefault(method.name, method)
        yield method
    by_lora = sorted(trained.values(), key=lambda method: method.lora is None)  # an adapter without LoRA takes priority
    inherited = dict(compressor_class(method.compressor).counterpart_of(method.params) for method in by_lora)
    labelled = [(name, label) for key in params for name, label in [_split_label(key)] if label]
    for name in dict.fromkeys(names or list_compressors()):
        _check_unlabelled(name)
        cls = compressor_class(name)
        if name in trained or cls.trainable and name in {method.compressor for method in by_lora}:
            continue
        if cls.trainable:
            if not names:
                print(f"ablation: {name} is left out, because no adapter of it was given")
                continue
            warnings.warn(f"{untrained_text(cls)}, and give it in --adapters", UntrainedCompressorWarning, stacklevel=2)
        known = init_params(cls)
        defaults = {key: value for key, value in inherited.get(name, {}).items() if key in known}
        yield Method(name, defaults | params.get(name, {}), untrained=cls.trainable)
    for name, label in labelled:
        yield Method(name, params[f"{name} ({label})"], untrained=compressor_class(name).trainable, label=label)


def _check_unlabelled(name: str) -> None:
    """Check that a name has no label.

    Raises:
        ConfigError: it has one; the message says which option adds such a row.
    """
    of, label = compressor_of(name), name.removeprefix(compressor_of(name))
    if REINVESTED_LABEL.fullmatch(label):
        raise ConfigError(f"compressors contain {name!r}, a row that 'reinvest:{of}' adds: give it in rows instead")
    if label:
        raise ConfigError(f"compressors contain {name!r}: labels belong to params, which add a row for each")


def _split_label(key: str) -> tuple[str, str]:
    """Return the compressor and the label of a key of ``params``.

    Raises:
        ConfigError: there is no such compressor, or the label is not valid.
        UnknownCompressorError: a stage of the chain is unknown.
    """
    name, text = compressor_of(key), key.removeprefix(compressor_of(key))
    if CHAIN_SEPARATOR not in name and name not in list_compressors():
        raise ConfigError(f"params contain no compressor {name!r}{nearest(name, list_compressors())}")
    compressor_class(name)  # also checks the stages of a chain
    label = text.removeprefix(" (").removesuffix(")")
    if REINVESTED_LABEL.fullmatch(text):
        raise ConfigError(
            f"params contain {key!r}, the name of a row that 'reinvest:{name}' adds: choose another label"
        )
    if text and (text != f" ({label})" or not LABEL.fullmatch(label) or text in RESERVED_LABELS):
        raise ConfigError(
            f"params contain {key!r}: a label consists of letters, digits and ' .,=+-', such as \"{name} (a)\", and is "
            f"none of {', '.join(suffix.strip() for suffix in RESERVED_LABELS)}"
        )
    return name, label


def _trained_methods(adapters: list[str], params: dict[str, dict[str, Any]]) -> Iterator[Method]:
    """Yield one method per adapter; those of one name must have equal parameters and different seeds.

    Adapters of one compressor that were trained at different budgets form one method for each of their budgets.
    """
    first: dict[str, Method] = {}
    seeds: dict[tuple[str, int], str] = {}
    for path, method in zip(adapters, _labelled([_load_method(path) for path in adapters]), strict=True):
        if method.compressor in params:
            raise ConfigError(
                f"the adapter of {method.compressor} brings its own parameters: remove {method.compressor} from params"
            )
        if first.setdefault(method.name, method).all_params != method.all_params:
            raise ConfigError(
                f"{path} and another adapter of {method.name} have different parameters and cannot form one method: "
                "compare them in separate ablations"
            )
        key = method.name, method.seed or 0
        if key in seeds:
            raise ConfigError(
                f"{seeds[key]} and {path} are both {method.name} trained with seed {method.seed}: give only one of them"
            )
        seeds[key] = path
        yield method


def _labelled(methods: list[Method]) -> list[Method]:
    """Label adapters with the budgets of their training where those of one compressor differ in them."""
    budgets = [_training_field(Path(str(method.folder)), "train_budgets", list) or [] for method in methods]
    texts = [", ".join(f"{budget:g}" for budget in found) for found in budgets]
    known: dict[str, set[str]] = {}
    for method, text in zip(methods, texts, strict=True):
        known.setdefault(method.name, set()).add(text)
    return [
        replace(method, label=f"{TRAINED_AT} {text or 'unknown budgets'}") if len(known[method.name]) > 1 else method
        for method, text in zip(methods, texts, strict=True)
    ]


def _load_method(source: str) -> Method:
    folder = Path(resolve_adapter(source))
    compressor = load_folder(folder)
    lora = structural_fields(read_lora(folder)) if has_lora(folder) else None
    seed = _training_field(folder, "seed", int) or 0
    return Method(compressor.name, compressor.params(), str(folder), adapter_digest(folder), seed, lora)


def _training_field(folder: Path, name: str, kind: type) -> Any:
    """Return a field of what the adapter's config says about its training; None if it says nothing."""
    training = read_config(folder).get("training")
    value = training.get(name) if isinstance(training, dict) else None
    return value if isinstance(value, kind) else None


def with_seed(cls: type[Compressor], params: dict[str, Any], seed: int) -> dict[str, Any]:
    """Add the seed to the parameters of a compressor, or of each stage of a chain, that has a seed and none is set."""
    if issubclass(cls, Chain):
        stages = zip(cls.stage_names, cls.stage_classes, strict=True)
        return {label: with_seed(part, params.get(label, {}), seed) for label, part in stages}
    return {"seed": seed, **params} if "seed" in init_params(cls) else dict(params)


def asking_digest(compressor: type[Compressor] | None = None) -> str:
    """SHA-256 of the source that creates and asks about the videos, and of the source of a compressor."""
    return code_digest(ask.__name__, compressor)


def source_digest(compressor: type[Compressor] | None = None) -> str:
    """SHA-256 of the source that a result depends on: that of :func:`asking_digest`, and that of its costs."""
    return text_digest(asking_digest(compressor) + code_digest(cost.__name__))
