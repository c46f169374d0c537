"""Record what compressors leave of the videos of a prompt inside the language model, while a host runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from framefold.adapters.hosts.base.family import family_of
from framefold.adapters.hosts.hooks.layer_hooks import RUN
from framefold.adapters.hosts.hooks.layer_run import LayerRun
from framefold.adapters.hosts.prompt.places import VideoPlace


class RecordedPlaces:
    """Context manager that records where the videos of the last prompt were in the layers of a host.

    Attributes:
        places: the videos of the last prompt that a compressor reduced inside the language model; empty before.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.places: Sequence[VideoPlace] = ()
        self._layer: Any = family_of(model).decoder_layers(model)[0]
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> RecordedPlaces:
        # Before the hooks that take the run out of the arguments.
        self._handle = self._layer.register_forward_pre_hook(self._record, with_kwargs=True, prepend=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _record(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        run: LayerRun | None = kwargs.get(RUN)
        if run is not None:
            self.places = run.places
