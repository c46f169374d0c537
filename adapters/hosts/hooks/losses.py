"""Losses of a compressor for training loops that compute the host's loss themselves, and a warning if they are unused.

A host called with labels returns a loss that includes them. A trainer that computes its own loss from the logits never
reads that loss (label smoothing, ``compute_loss_func``, TRL), so it must add them itself.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from framefold.errors import AttachError

from .state import ATTACHMENT_NAME, Attachment


def compressor_losses(model: nn.Module) -> dict[str, Tensor]:
    """Return the losses of the attached compressor in the last forward of a host, to add them to a loss of one's own.

    Call it between forward and backward, and add the sum of the values. Do not add it to the loss that the host returns
    if it is called with labels, which includes them. The same dictionary is an attribute ``compressor_losses`` of the
    host's output, as long as no wrapper (DDP, mixed precision) copies that output.

    Args:
        model: the attached host, or a module that contains it (PEFT, DDP, FSDP, a LightningModule).

    Returns:
        Scalar losses by name, each the mean over the videos. Empty in eval mode, after a batch without a video, and if
        the compressor has no losses. A forward without gradients leaves the losses of the forward before; after the
        backward they are detached.

    Raises:
        AttachError: no compressor is attached to the model or to a module in it.
    """
    for module in model.modules():
        if (attachment := module.__dict__.get(ATTACHMENT_NAME)) is not None:
            if attachment.losses is None or not module.training:
                return {}
            attachment.losses.used = True
            return dict(attachment.losses.values)
    raise AttachError(f"no compressor is attached to this {type(model).__name__}")


@dataclass(eq=False)
class LossRecord:
    """Losses of the last forward in training mode.

    Attributes:
        values: losses by name.
        used: whether the caller read them, or a backward reached them.
        checked: whether a check at the end of the current backward is scheduled.
    """

    values: dict[str, Tensor]
    used: bool = False
    checked: bool = False


def record_losses(attachment: Attachment, values: dict[str, Tensor], outputs: Iterable[Any], total: Any) -> None:
    """Keep the losses of a forward for :func:`compressor_losses`, and watch its backward.

    Args:
        attachment: of the host.
        values: losses by name.
        outputs: values that the host returns; a backward through any of them must also reach the losses.
        total: loss that the host returns, with the compressor's losses; None if it returns none.
    """
    record = attachment.losses = LossRecord(values)
    if not values or attachment.warned_of_losses or torch.compiler.is_compiling():
        return

    def mark_used(_: Tensor) -> None:
        record.used = True

    def check_after_backward(_: Tensor) -> None:
        if not record.checked:
            record.checked = True
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: _check(attachment, record))

    for tensor in (*values.values(), total):
        _add_hook(tensor, mark_used)
    for output in outputs:
        _add_hook(output, check_after_backward)


def _add_hook(value: Any, hook: Any) -> None:
    if isinstance(value, Tensor) and value.requires_grad:
        value.register_hook(hook)


def _check(attachment: Attachment, record: LossRecord) -> None:
    """Warn if a backward through the host left out losses that are not zero, and release their graph."""
    record.checked = False
    unused = not record.used and not attachment.warned_of_losses
    record.values = {name: loss.detach() for name, loss in record.values.items()}
    if not unused or not any(bool(loss.any()) for loss in record.values.values()):
        return
    attachment.warned_of_losses = True
    found = ", ".join(f"{name} {float(loss):.4g}" for name, loss in record.values.items())
    warnings.warn(
        f"the losses of the compressor ({found}) are not trained: the trainer computes its own loss from the host's"
        " outputs. Add sum(framefold.compressor_losses(model).values()) to it, see docs/train_with_trainers.md",
        stacklevel=2,
    )


def expose_losses(output: Any, values: dict[str, Tensor]) -> None:
    """Set the losses as an attribute of an output; tuples and dictionaries have none."""
    with contextlib.suppress(AttributeError):
        output.compressor_losses = values
