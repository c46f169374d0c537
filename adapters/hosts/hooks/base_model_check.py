"""Identify a host, and check whether an adapter was trained in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.errors import WrongHostError
from framefold.files import weights_digest
from framefold.messages import short


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

    For a host from the Hub the ids are compared, not the commits, because most commits change no weights. For a host
    from a folder the digests of the weights are compared, if the adapter names one.

    Args:
        model: the host.
        base_model: the host that the adapter was trained in.
        what: name of the adapter, for the message.

    Raises:
        WrongHostError: the hosts differ in kind, width, Hub id or weights.
    """
    host = base_model_of(model)
    folder = str(model.name_or_path or "")
    problem = None
    if base_model.kind not in (None, host.kind):
        problem = f"a {short(base_model.kind)} host, this is {host.kind!r}"
    elif base_model.width not in (None, host.width):
        problem = f"a host of width {base_model.width}, this {type(model).__name__} has {host.width}"
    elif base_model.revision and base_model.name and host.name:
        if base_model.name.lower() != host.name.lower():
            problem = f"{short(base_model.name)}, this is {short(host.name)}"
    elif base_model.weights and folder and Path(folder).is_dir() and base_model.weights != weights_digest(Path(folder)):
        problem = f"{short(base_model.name)}, whose weights are not those of {folder}"
    if problem is not None:
        raise WrongHostError(
            f"{what} is an adapter that was trained in {problem}: pass allow_other_host=True to load it anyway"
        )


def _only_commit(hub_id: str) -> str | None:
    from huggingface_hub import constants

    folder: Any = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    commits = [entry.name for entry in folder.iterdir()] if hub_id and folder.is_dir() else []
    return commits[0] if len(commits) == 1 else None
