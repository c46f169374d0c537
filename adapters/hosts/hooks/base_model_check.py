"""Identify a host, and check whether an adapter was trained in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.errors import WrongHostError


def base_model_of(model: PreTrainedModel) -> BaseModel:
    """Return the record that identifies a host, without the digest of its weights; ``name`` is a Hub id or None.

    transformers stores the commit it loaded only in the path of a snapshot. For a host that was loaded by its Hub id,
    the revision is therefore the commit in the cache of huggingface_hub, if the cache has exactly one.
    """
    name = str(model.name_or_path or "")
    kind, width = str(model.config.model_type), int(model.config.get_text_config().hidden_size)
    if name and Path(name).is_dir():
        hub_id, revision = hub_snapshot(name) or (None, None)
    else:
        hub_id, revision = name or None, getattr(model.config, "_commit_hash", None) or _only_commit(name)
    return BaseModel(hub_id, revision, kind, width)


def check_base_model(model: PreTrainedModel, base_model: BaseModel, what: str) -> None:
    """Refuse a host other than the one an adapter was trained in, as far as both are known.

    See :meth:`~framefold.adapters.pretrained.base_model.BaseModel.difference`.

    Args:
        model: the host.
        base_model: the host that the adapter was trained in.
        what: name of the adapter, for the message.

    Raises:
        WrongHostError: the hosts differ in kind, width, Hub id or weights.
    """
    name = str(model.name_or_path or "")
    folder = Path(name) if name and Path(name).is_dir() else None
    problem = base_model.difference(base_model_of(model), folder, type(model).__name__)
    if problem is not None:
        raise WrongHostError(
            f"{what} is an adapter that was trained in {problem}: pass allow_other_host=True to load it anyway"
        )


def _only_commit(hub_id: str) -> str | None:
    from huggingface_hub import constants

    folder: Any = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    commits = [entry.name for entry in folder.iterdir()] if hub_id and folder.is_dir() else []
    return commits[0] if len(commits) == 1 else None
