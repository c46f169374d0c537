"""Which extra of framefold installs a package, and the error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from framefold.errors import MissingExtraError

# Module that is missing -> the extra of framefold that installs it.
EXTRA_OF = {
    "transformers": "hosts",
    **dict.fromkeys(("pytorch_lightning", "deepspeed", "webdataset", "av", "jsonargparse"), "train"),
    **dict.fromkeys(("docstring_parser", "shtab", "ijson"), "train"),
    **dict.fromkeys(("tensorboard", "torchmetrics", "rich", "filelock", "lightning_utilities", "psutil"), "train"),
    "peft": "lora",
    "bitsandbytes": "quantized",
    "mamba_ssm": "mamba",
    "causal_conv1d": "mamba",
    **dict.fromkeys(("matplotlib", "plotly"), "report"),
    "wandb": "wandb",
}


@contextmanager
def named_extra() -> Iterator[None]:
    """Turn the ``ModuleNotFoundError`` of a package that an extra installs into an error that names the extra.

    Raises:
        MissingExtraError: the code inside imports a package that is not installed and belongs to an extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        from framefold.messages import install_command

        raise MissingExtraError(f"{error.name} is not installed (extra {extra!r}): {install_command(extra)}") from error
