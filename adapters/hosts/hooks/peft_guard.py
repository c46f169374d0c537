"""What an attached host does so that PEFT never parts an adapter from the compressor it was trained behind in silence.

PEFT saves a compressor that is named in ``modules_to_save``, and says nothing when it loads such a folder into a host
that has none. So the ``adapter_config.json`` that PEFT writes for an attached host gets a ``peft_type`` of its own,
with the stock one and the compressor's config beside it. PEFT refuses a type that it does not know, and the name of the
type is the advice; attaching a compressor teaches PEFT to read it, where there is a host with this compressor.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
import weakref
from pathlib import Path
from typing import Any

from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from framefold.adapters.pretrained.folder import compressor_fields
from framefold.errors import AdapterFileError, AttachError, ConfigError
from framefold.files import replace_file

PEFT_TYPE = (
    "an adapter behind a framefold compressor: framefold.attach(host, compressor) first, or"
    " framefold.load_peft(host, folder)"
)

FRAMEFOLD_FIELD = "framefold"  # of adapter_config.json: the compressor's config, and the stock peft_type

ADAPTER_CONFIG = "adapter_config.json"

_GUARDS: weakref.WeakSet[PeftGuard] = weakref.WeakSet()


class PeftGuard:
    """Hook of one attached host: looks, at its forward and its ``state_dict``, at adapters that it has not seen yet.

    An object, so that copies and pickles of the host get their own; it holds no reference to the host.

    Args:
        name: of the compressor's attribute.
        fields: ``positions`` and ``outputs`` of the host, and which compressor it has.
    """

    name: str
    fields: dict[str, Any]

    def __new__(cls, *args: Any) -> PeftGuard:
        watch = super().__new__(cls)  # copying and unpickling come by here too
        _GUARDS.add(watch)
        return watch

    def __init__(self, name: str, fields: dict[str, Any]) -> None:
        self.name, self.fields = name, fields

    def __call__(self, model: PreTrainedModel, *_: Any) -> None:
        """Look at the adapters that are new since the last call.

        Raises:
            ConfigError: an adapter inside the compressor.
            AttachError: an adapter that was saved behind another compressor.
        """
        for name, config in (model.__dict__.get("peft_config") or {}).items():
            if "save_pretrained" not in config.__dict__:
                self._check(model, name, config)
                config.save_pretrained = _Save(model, name)

    def _check(self, model: PreTrainedModel, adapter: str, config: Any) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        compressor = getattr(model, self.name)
        inside = [key for key, module in compressor.named_modules() if isinstance(module, BaseTunerLayer)]
        if inside:
            raise ConfigError(
                f"target_modules of the adapter {adapter!r} also match in the compressor ({self.name}.{inside[0]}):"
                f" LoraConfig(modules_to_save=[{self.name!r}], ...) trains it whole, with exclude_modules="
                f"'{self.name}.*' it is left alone"
            )
        if (saved := getattr(config, FRAMEFOLD_FIELD, None)) is not None and not self.fits(saved):
            raise AttachError(_mismatch(saved))
        training = not config.inference_mode and not any(p.requires_grad for p in compressor.parameters())
        if training and compressor.state_dict() and adapter not in getattr(compressor, "modules_to_save", ()):
            warnings.warn(
                f"PEFT froze the compressor and will not save it: LoraConfig(modules_to_save=[{self.name!r}], ...)"
                " trains and saves it with the adapter",
                stacklevel=2,
            )

    def fits(self, saved: dict[str, Any]) -> bool:
        """Whether a host with this hook is one for an adapter with such a field; budgets may differ."""
        return all(saved.get(key) == self.fields[key] for key in ("compressor", "params", "positions"))


def refuse_dropped_compressor(model: PreTrainedModel, name: str) -> None:
    """Refuse a host into which PEFT loaded an adapter, and dropped the compressor that belongs to it.

    Raises:
        AttachError: an adapter names the compressor in ``modules_to_save``, and has never been seen with one.
    """
    for adapter, config in (model.__dict__.get("peft_config") or {}).items():
        if name in (getattr(config, "modules_to_save", None) or ()) and "save_pretrained" not in config.__dict__:
            raise AttachError(
                f"the adapter {adapter!r} names the {name} in modules_to_save, but came before it, so PEFT has left it"
                " out: take a fresh host, attach first, then get_peft_model or PeftModel.from_pretrained"
            )


def install_peft_guard(model: PreTrainedModel, name: str, positions: str, outputs: str) -> list[RemovableHandle]:
    """Put the hook on a host with a compressor, and teach PEFT, if it is installed, to read what is saved there.

    Args:
        name: of the compressor's attribute; it has its parameters by now.
        positions, outputs: arguments of ``attach``.

    Returns:
        The handles to remove when the compressor is detached.
    """
    if importlib.util.find_spec("peft") is not None:
        _teach_peft()
    fields = {**compressor_fields(getattr(model, name)), "positions": positions, "outputs": outputs}
    fields = json.loads(json.dumps(fields, default=repr))  # a parameter that is no JSON still tells compressors apart
    hook = PeftGuard(name, fields)
    return [model.register_state_dict_post_hook(hook), model.register_forward_pre_hook(hook)]


def compressor_with_adapter(model: PreTrainedModel, name: str, adapter: str) -> tuple[Any, bool]:
    """The compressor that a host runs with an adapter, and whether PEFT saves it with that adapter."""
    module = getattr(model, name)
    copies = getattr(module, "modules_to_save", {})
    if adapter in copies:
        return copies[adapter], True
    return getattr(module, "original_module", module), False


class _Save:
    """Stands in for ``save_pretrained`` of an adapter's config, which PEFT calls when the weights are written."""

    def __init__(self, model: PreTrainedModel, adapter: str) -> None:
        self.model, self.adapter = model, adapter

    def __deepcopy__(self, memo: dict[int, Any]) -> _Save:
        return _Save(memo.get(id(self.model), self.model), self.adapter)  # a copy of a config copies no host

    def __call__(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the config, and mark it while a compressor is attached.

        Raises:
            ConfigError: the compressor has weights that PEFT left out.
        """
        configs: Any = self.model.__dict__["peft_config"]
        config = configs[self.adapter]
        hooks = self.model._state_dict_hooks.values()
        hook = next((hook for hook in hooks if isinstance(hook, PeftGuard)), None)
        if hook is None:  # detached
            type(config).save_pretrained(config, save_directory, **kwargs)
            return
        compressor, saved = compressor_with_adapter(self.model, hook.name, self.adapter)
        if not saved and compressor.state_dict():
            raise ConfigError(
                f"PEFT does not save the compressor with the adapter {self.adapter!r}: give"
                f" LoraConfig(modules_to_save=[{hook.name!r}]), or save with framefold.save_peft(model, folder)"
            )
        type(config).save_pretrained(config, save_directory, **kwargs)
        file = Path(save_directory) / ADAPTER_CONFIG
        stock = json.loads(file.read_text())
        field = {**hook.fields, **compressor_fields(compressor), "peft_type": stock["peft_type"]}
        text = json.dumps({**stock, "peft_type": PEFT_TYPE, FRAMEFOLD_FIELD: field}, indent=2, sort_keys=True)
        replace_file(file, lambda beside: beside.write_text(text))


def stock_fields(fields: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part a marked ``adapter_config.json`` into what PEFT would have written and our field.

    Raises:
        AdapterFileError: there is no such field, or one without a stock type.
    """
    field = fields.get(FRAMEFOLD_FIELD)
    if not isinstance(field, dict) or not isinstance(field.get("peft_type"), str) or field["peft_type"] == PEFT_TYPE:
        raise AdapterFileError(
            f"{ADAPTER_CONFIG} has no field {FRAMEFOLD_FIELD!r} that names the compressor and the peft_type"
        )
    stock = {key: value for key, value in fields.items() if key != FRAMEFOLD_FIELD}
    return {**stock, "peft_type": field["peft_type"]}, field


def _teach_peft() -> None:
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    class Marked(PeftConfig):
        """What PEFT looks up for our type; an instance is a stock config."""

        def __new__(cls, **fields: Any) -> Any:
            return _stock_config(fields)

    known: dict[Any, Any] = PEFT_TYPE_TO_CONFIG_MAPPING
    known.setdefault(PEFT_TYPE, Marked)


def _stock_config(fields: dict[str, Any]) -> Any:
    """The stock config of a marked one, if any host in this process has the compressor.

    PEFT does not show us the host that it loads into. If that is another one which has no compressor, PEFT warns that
    ``exclude_modules`` excludes nothing.
    """
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    stock, saved = stock_fields(fields)
    if stock["peft_type"] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise AdapterFileError(f"{ADAPTER_CONFIG}: this version of PEFT knows no {stock['peft_type']!r}")
    hooks = [hook for hook in _GUARDS if hook.fits(saved)]
    if not hooks:
        raise AttachError(_mismatch(saved))
    config: Any = PeftConfig.from_peft_type(**stock)
    if hasattr(config, "exclude_modules"):
        config.exclude_modules = _excluding(hooks[0].name, config.exclude_modules)
    setattr(config, FRAMEFOLD_FIELD, saved)
    return config


def _excluding(name: str, before: Any) -> Any:
    if isinstance(before, str):
        return f"(?:{before})|{name}"
    return sorted({*(before or ()), name})


def _mismatch(saved: dict[str, Any]) -> str:
    present = ", ".join(sorted({_title(hook.fields) for hook in _GUARDS})) or "no compressor"
    return (
        f"this adapter was trained behind {_title(saved)}, and attached is {present}: framefold.attach(host, ...) that"
        " first, or let framefold.load_peft(host, folder) do it"
    )


def _title(fields: dict[str, Any]) -> str:
    params = ", ".join(f"{key}={value!r}" for key, value in (fields.get("params") or {}).items())
    return f"{fields.get('compressor')}({params}) with positions={fields.get('positions')!r}"
