"""What a server compresses with: the entry ``framefold`` of ``--hf-overrides``.

The configuration of the host is the only place that both the processor of prompts and the model can read, in every
process of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch

from framefold.adapters.base.compressor import Compressor
from framefold.adapters.base.untrained import warn_untrained
from framefold.adapters.core.budget import AUTO, Budget, budget_tokens, check_budget
from framefold.adapters.core.registry import compressor_class, create_compressor
from framefold.adapters.hosts.prompt.columns import Positions
from framefold.adapters.pretrained.config import CONFIG, read_config
from framefold.adapters.pretrained.folder import load_folder
from framefold.adapters.pretrained.hub import locate_adapter
from framefold.errors import ConfigError, ServingError
from framefold.messages import nearest, short

KEY = "framefold"  # in the configuration of the host

DEFAULT_BUDGET = 0.25  # that of framefold.build

EXAMPLE = '--hf-overrides \'{"framefold": {"adapter": "FOLDER or USER/NAME", "budget": 0.25}}\''


@dataclass(frozen=True)
class ServingSettings:
    """A compressor, its budget, and the positions of its tokens.

    Attributes:
        adapter: folder, or ``user/name`` or ``user/name@revision`` on the Hub; None if ``compressor`` is given.
        compressor: name of a training-free compressor, or of a chain of them; None if ``adapter`` is given.
        budget: retention ratio or number of tokens per video; None for the one that the compressor has.
        params: parameters of ``compressor``.
        positions: "preserve" gives a token the position of its anchor, as in training; "compact" renumbers the shorter
            prompt, for hosts with 1-D positions; "all_axes" numbers text behind a video as published Qwen2-VL and
            Qwen2.5-VL do,
            see :func:`~framefold.adapters.hosts.hooks.attach.attach`.
        allow_other_host: accept an adapter that was trained in another host.
        reads_question: whether the compressor chooses tokens by the question; set when the engine is configured.
    """

    adapter: str | None = None
    compressor: str | None = None
    budget: Budget | None = None
    params: dict[str, Any] = field(default_factory=dict)
    positions: Positions = "preserve"
    allow_other_host: bool = False
    reads_question: bool = False

    @classmethod
    def of(cls, hf_config: Any) -> ServingSettings:
        """Read the settings from the configuration of a host.

        Raises:
            ConfigError: they are missing, or an entry is unknown, of the wrong type or out of range.
            BudgetError: the budget is out of range.
        """
        given = getattr(hf_config, KEY, None)
        if not isinstance(given, dict):
            raise ConfigError(f"the server does not know what to compress with: pass {EXAMPLE}")
        return cls.from_dict(given)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> ServingSettings:
        """Validate settings as JSON has them; see :meth:`of`."""
        kinds: dict[str, type | tuple[type, ...]] = {
            "adapter": str, "compressor": str, "params": dict, "positions": str, "allow_other_host": bool,
            "reads_question": bool,
        }  # fmt: skip
        known = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in known:
                raise ConfigError(f"the settings of framefold have no entry {short(name)}{nearest(name, known)}")
            if value is not None and not isinstance(value, kinds.get(name, object)):
                raise ConfigError(f"{name} must be {kinds[name].__name__}, got {short(value)}")  # type: ignore[union-attr]
        made = cls(**{name: value for name, value in given.items() if value is not None})
        if (made.adapter is None) == (made.compressor is None):
            raise ConfigError(f"name either an adapter or a compressor, got {short(given)}: pass {EXAMPLE}")
        if made.params and made.adapter is not None:
            raise ConfigError(f"{short(made.adapter)} is an adapter and has its own parameters: pass no params")
        if made.positions not in get_args(Positions):
            raise ConfigError(f"positions must be one of {get_args(Positions)}, got {short(made.positions)}")
        if made.budget == AUTO:
            raise ServingError(
                'budget="auto" cannot be served: the engine needs the number of tokens before it encodes'
            )
        return made if made.budget is None else replace(made, budget=check_budget(made.budget))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        given = {name: value for name, value in asdict(self).items() if value not in (None, {})}
        return given if self.reads_question else {name: given[name] for name in given if name != "reads_question"}

    def beside(self, host: Path) -> ServingSettings:
        """Return the settings with the adapter in the folder of the host, if it is there ('framefold export --merge').

        Args:
            host: folder of the host.
        """
        if self.adapter is None or Path(self.adapter).is_absolute() or not (host / self.adapter / CONFIG).is_file():
            return self
        return replace(self, adapter=str(host / self.adapter))

    def resolved(self) -> tuple[ServingSettings, Compressor]:
        """Load the compressor, and name its folder and budget, so that no other process asks the Hub or guesses.

        Raises:
            ServingError: the compressor cannot be served.
            FramefoldError: it cannot be loaded or built.
        """
        adapter = self.adapter
        if adapter is not None:
            folder = locate_adapter(adapter)
            if read_config(folder).get("lora") is True:
                raise ServingError(
                    f"{adapter} also has LoRA weights of its host, which a server would leave out: merge both into one"
                    " folder ('framefold export --merge') and serve that"
                )
            adapter = str(folder.absolute())
        settings = replace(self, adapter=adapter)
        compressor = settings.load()
        check_servable(compressor)
        warn_untrained(compressor)
        return replace(settings, budget=compressor.budget, reads_question=compressor.query_aware), compressor

    def load(self) -> Compressor:
        """Return the compressor, in eval mode and frozen, with the dtype and device that it was saved with.

        Raises:
            FramefoldError: it cannot be loaded or built.
        """
        with plain_tensors():
            if self.adapter is not None:
                compressor: Compressor = load_folder(Path(self.adapter), budget=self.budget)
            else:
                assert self.compressor is not None
                # A registered name, never a class path: the settings may be those of a downloaded folder.
                budget = DEFAULT_BUDGET if self.budget is None else self.budget
                compressor = create_compressor(compressor_class(self.compressor), budget, self.params)
        return compressor.eval().requires_grad_(False)

    def count(self, tokens_per_frame: int, num_frames: int, q: float = 0.0) -> int:
        """Return how many tokens of a video are kept.

        It has the parameters of the functions of vLLM that it replaces, whose ``q`` is a rate of pruning.
        """
        assert self.budget is not None
        return budget_tokens(self.budget, tokens_per_frame * num_frames)


def check_servable(compressor: Compressor) -> None:
    """Refuse a compressor that an engine cannot run between its vision encoder and its language model.

    Raises:
        ServingError: the message says why.
    """
    for refused, reason in (
        (compressor.in_llm is not None, "it also acts inside the language model"),
        (compressor.needs_attention, "it needs the attention of the vision encoder, which the engine does not return"),
        (compressor.budget == AUTO, "it predicts its budget, which the engine needs before it encodes"),
        (not compressor.exact_budget and compressor.budget != 1.0, "it does not keep an exact number of tokens"),
    ):
        if refused:
            raise ServingError(f"{compressor.name} cannot be served: {reason}")


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Undo the default dtype and device under which the engine builds models.

    Adapters must not be cast, and compressors make tensors that must have the dtype and device that they have later.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
