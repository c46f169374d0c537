"""PEFT: an adapter is not loaded without its compressor, and ``adapter_names=`` selects the compressor of each prompt.

PEFT saves a compressor that is named in ``modules_to_save``, but does not complain when it loads such a folder into a
host without one. Therefore the ``adapter_config.json`` that PEFT writes for an attached host gets its own
``peft_type``, next to the stock type and the compressor's config. PEFT refuses an unknown type, and its message shows
the type, whose text says what to do. Attaching a compressor registers the type with PEFT, so that the folder can be
loaded as long as a host with this compressor exists.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import warnings
import weakref
from pathlib import Path
from typing import Any

from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from framefold.adapters.pretrained.folder import compressor_fields
from framefold.errors import AdapterFileError, AttachError, ConfigError, InputError
from framefold.files import replace_file

PEFT_TYPE = (
    "an adapter behind a framefold compressor: framefold.attach(host, compressor) first, or"
    " framefold.load_peft(host, folder)"
)

FRAMEFOLD_FIELD = "framefold"  # in adapter_config.json: the compressor's config and the stock peft_type

ADAPTER_CONFIG = "adapter_config.json"

_GUARDS: weakref.WeakSet[PeftGuard] = weakref.WeakSet()


class PeftGuard:
    """Hook of one attached host that checks new adapters at each forward and each ``state_dict``.

    It is an object rather than a closure, so that copies and pickles of the host get their own. It holds no reference
    to the host.

    Args:
        name: name of the compressor's attribute.
        fields: the compressor's config, and ``positions`` and ``outputs`` of the host.
    """

    name: str
    fields: dict[str, Any]

    def __new__(cls, *args: Any) -> PeftGuard:
        guard = super().__new__(cls)  # copying and unpickling run this too
        _GUARDS.add(guard)
        return guard

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name, self.fields = name, fields

    def __call__(self, model: PreTrainedModel, *_: Any) -> None:
        """Check the adapters that were added since the last call.

        Raises:
            ConfigError: an adapter has layers inside the compressor.
            AttachError: an adapter was saved with another compressor.
        """
        for name, config in (model.__dict__.get("peft_config") or {}).items():
            if "save_pretrained" not in config.__dict__:
                self._check(model, name, config)
                config.save_pretrained = _SaveConfig(model, name)

    def _check(self, model: PreTrainedModel, adapter: str, config: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        compressor = getattr(model, self.name)
        inside = [key for key, module in compressor.named_modules() if isinstance(module, BaseTunerLayer)]
        if inside:
            raise ConfigError(
                f"target_modules of the adapter {adapter!r} also match inside the compressor ({self.name}.{inside[0]}):"
                f" pass LoraConfig(modules_to_save=[{self.name!r}], ...) to train all of the compressor, or"
                f" exclude_modules='{self.name}.*' to leave it unchanged"
            )
        if (saved := getattr(config, FRAMEFOLD_FIELD, None)) is not None and not self.fits(saved):
            raise AttachError(_mismatch(saved))
        training = not config.inference_mode and not any(p.requires_grad for p in compressor.parameters())
        if training and compressor.state_dict() and adapter not in getattr(compressor, "modules_to_save", ()):
            warnings.warn(
                f"PEFT froze the compressor and will not save it: pass LoraConfig(modules_to_save=[{self.name!r}], ...)"
                " to train and save it with the adapter",
                stacklevel=2,
            )

    def fits(self, saved: dict[str, Any]) -> bool:
        """Return whether an adapter with this ``framefold`` field belongs to the guarded host; budgets may differ."""
        return all(saved.get(key) == self.fields[key] for key in ("compressor", "params", "positions"))


def refuse_dropped_compressor(model: PreTrainedModel, name: str) -> None:
    """Refuse a host into which PEFT loaded an adapter without the compressor that belongs to it.

    Raises:
        AttachError: an adapter names the compressor in ``modules_to_save``, but was added before any compressor.
    """
    for adapter, config in (model.__dict__.get("peft_config") or {}).items():
        if name in (getattr(config, "modules_to_save", None) or ()) and "save_pretrained" not in config.__dict__:
            raise AttachError(
                f"the adapter {adapter!r} names the {name} in modules_to_save, but was added before it, so PEFT has"
                " left it out: take a fresh host, attach first, then call get_peft_model or PeftModel.from_pretrained"
            )


def install_peft_guard(model: PreTrainedModel, name: str, positions: str, outputs: str) -> list[RemovableHandle]:
    """Add the guard to a host with a compressor, and let PEFT, if installed, load what was saved there.

    Args:
        model: the host.
        name: name of the compressor's attribute; the compressor must have its parameters.
        positions: argument of ``attach``.
        outputs: argument of ``attach``.

    Returns:
        Handles of the hooks, to be removed when the compressor is detached.
    """
    if importlib.util.find_spec("peft") is not None:
        _register_with_peft()
    fields = {**compressor_fields(getattr(model, name)), "positions": positions, "outputs": outputs}
    # default=repr, so that parameters that JSON cannot represent still distinguish compressors
    fields = json.loads(json.dumps(fields, default=repr))
    guard = PeftGuard(name, fields)
    return [model.register_state_dict_post_hook(guard), model.register_forward_pre_hook(guard)]


def compressor_with_adapter(model: PreTrainedModel, name: str, adapter: str) -> tuple[Any, bool]:
    """Return the compressor that a host runs with an adapter, and whether PEFT saves it with that adapter."""
    module = getattr(model, name)
    copies = getattr(module, "modules_to_save", {})
    if adapter in copies:
        return copies[adapter], True
    return getattr(module, "original_module", module), False


class _SaveConfig:
    """Replacement of ``save_pretrained`` of an adapter's config, which PEFT calls after writing the weights."""

    def __init__(self, model: PreTrainedModel, adapter: str) -> None:
        self.model, self.adapter = model, adapter

    def __deepcopy__(self, memo: dict[int, Any]) -> _SaveConfig:
        return _SaveConfig(memo.get(id(self.model), self.model), self.adapter)  # copying a config copies no host

    def __call__(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the config, with the compressor's config and type if a compressor is attached.

        Raises:
            ConfigError: the compressor has weights that PEFT does not save.
        """
        configs: Any = self.model.__dict__["peft_config"]
        config = configs[self.adapter]
        hooks = self.model._state_dict_hooks.values()
        guard = next((hook for hook in hooks if isinstance(hook, PeftGuard)), None)
        if guard is None:  # detached
            type(config).save_pretrained(config, save_directory, **kwargs)
            return
        compressor, saved = compressor_with_adapter(self.model, guard.name, self.adapter)
        if not saved and compressor.state_dict():
            raise ConfigError(
                f"PEFT does not save the compressor with the adapter {self.adapter!r}: pass"
                f" LoraConfig(modules_to_save=[{guard.name!r}]), or save with framefold.save_peft(model, folder)"
            )
        type(config).save_pretrained(config, save_directory, **kwargs)
        file = Path(save_directory) / ADAPTER_CONFIG
        stock = json.loads(file.read_text())
        field = {**guard.fields, **compressor_fields(compressor), "peft_type": stock["peft_type"]}
        text = json.dumps({**stock, "peft_type": PEFT_TYPE, FRAMEFOLD_FIELD: field}, indent=2, sort_keys=True)
        replace_file(file, lambda temporary: temporary.write_text(text))


def stock_fields(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split an ``adapter_config.json`` of an attached host into the stock fields of PEFT and our field.

    Raises:
        AdapterFileError: our field is missing, or names no stock type.
    """
    field = fields.get(FRAMEFOLD_FIELD)
    if not isinstance(field, dict) or not isinstance(field.get("peft_type"), str) or field["peft_type"] == PEFT_TYPE:
        raise AdapterFileError(
            f"{ADAPTER_CONFIG} has no field {FRAMEFOLD_FIELD!r} that names the compressor and the peft_type"
        )
    stock = {key: value for key, value in fields.items() if key != FRAMEFOLD_FIELD}
    return {**stock, "peft_type": field["peft_type"]}, field


def _register_with_peft() -> None:
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    class FramefoldConfig(PeftConfig):
        """Config class that PEFT looks up for our type; its constructor returns a stock config."""

        def __new__(cls, **fields: Any) -> Any:
            return _stock_config(fields)

    known: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
    known.setdefault(PEFT_TYPE, FramefoldConfig)


def _stock_config(fields: dict[str, Any]) -> Any:
    """Return the stock config of an adapter, if any host in this process has its compressor.

    PEFT does not tell which host it loads into. If that is another host without a compressor, PEFT warns that
    ``exclude_modules`` excludes nothing.
    """
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    stock, saved = stock_fields(fields)
    if stock["peft_type"] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise AdapterFileError(f"{ADAPTER_CONFIG}: this version of PEFT has no peft_type {stock['peft_type']!r}")
    guards = [guard for guard in _GUARDS if guard.fits(saved)]
    if not guards:
        raise AttachError(_mismatch(saved))
    config: Any = PeftConfig.from_peft_type(**stock)
    if hasattr(config, "exclude_modules"):
        config.exclude_modules = _exclude_also(guards[0].name, config.exclude_modules)
    setattr(config, FRAMEFOLD_FIELD, saved)
    return config


def _exclude_also(name: str, exclude_modules: Any) -> Any:
    if isinstance(exclude_modules, str):
        return f"(?:{exclude_modules})|{name}"
    return sorted({*(exclude_modules or ()), name})


def _mismatch(saved: dict[str, Any]) -> str:
    attached = ", ".join(sorted({_title(guard.fields) for guard in _GUARDS})) or "no compressor"
    return (
        f"this adapter was trained with {_title(saved)}, but {attached} is attached: attach that compressor first, or"
        " call framefold.load_peft(host, folder)"
    )


def _title(fields: dict[str, Any]) -> str:
    params = ", ".join(f"{key}={value!r}" for key, value in (fields.get("params") or {}).items())
    return f"{fields.get('compressor')}({params}) with positions={fields.get('positions')!r}"


class RowCompressors:
    """The copies of a compressor that PEFT trained with several adapters, one for each row of a batch.

    PEFT splits the input of a module in ``modules_to_save`` by row, which is a batch for the layers that it knows. The
    input of a compressor is one video.

    Args:
        wrapper: PEFT's wrapper of the compressor.
        names: name of the adapter of each row, or of each beam of each row; "__base__" for none.
    """

    def __init__(self, wrapper: Any, names: list[str]) -> None:
        self.wrapper, self.names = wrapper, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapper.original_module, name)

    def of_row(self, row: int, rows: int) -> Any:
        """Return the compressor of a row of a batch.

        Raises:
            InputError: there is not one name per row.
        """
        beams, rest = divmod(len(self.names), rows)
        if rest or not beams:
            raise InputError(f"adapter_names must have one name for each of the {rows} prompts, got {len(self.names)}")
        copies = {} if self.wrapper.disable_adapters else dict(self.wrapper.modules_to_save.items())
        return copies.get(self.names[row * beams], self.wrapper.original_module)


def by_adapter_names(compressor: Any) -> Any:
    """Return the compressors of the rows during a call with ``adapter_names``, and otherwise the compressor itself."""
    if not hasattr(compressor, "modules_to_save"):
        return compressor
    for hook in reversed(compressor._forward_pre_hooks.values()):  # PEFT passes the names by such hooks
        if isinstance(hook, functools.partial) and (names := hook.keywords.get("adapter_names")) is not None:
            return RowCompressors(compressor, list(names))
    return compressor
