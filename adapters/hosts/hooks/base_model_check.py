"""Which host a model is, and whether an adapter was trained in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from framefold.adapters.pretrained.base_model import BaseModel, hub_snapshot
from framefold.errors import WrongHostError
from framefold.files import weights_digest
from framefold.messages import short


def base_model_of(model: PreTrainedModel) -> BaseModel:
    """Which host a model is, without the digest of its weights; ``name`` is a Hub id or None.

    transformers notes the commit that it loaded only in the path of a snapshot, so the revision of a host that was
    loaded by its id is the commit in the cache of huggingface_hub, if it holds a single one.
    """
    name = str(model.name_or_path or "")
    kind, width = str(model.config.model_type), int(model.config.get_text_config().hidden_size)
    if name and Path(name).is_dir():
        hub_id, revision = hub_snapshot(name) or (None, None)
    else:
        hub_id, revision = name or None, getattr(model.config, "_commit_hash", None) or _only_commit(name)
    return BaseModel(hub_id, revision, kind, width)


def check_base_model(model: PreTrainedModel, base_model: BaseModel, what: str) -> None:
    """Refuse a host in which an adapter was not trained, as far as both sides are known.

    Of a host from the Hub the id is compared, not the commit, since most commits touch no weights; of one from a folder
    the digest of its weights, if the adapter names one.

    Args:
        base_model: of the adapter. what: name of the adapter.

    Raises:
        WrongHostError: another kind, width, Hub id, or other weights.
    """
    found = base_model_of(model)
    folder = str(model.name_or_path or "")
    problem = None
    if base_model.kind not in (None, found.kind):
        problem = f"of a {short(base_model.kind)} host, this is {found.kind!r}"
    elif base_model.width not in (None, found.width):
        problem = f"of a host of width {base_model.width}, this {type(model).__name__} has {found.width}"
    elif base_model.revision and base_model.name and found.name:
        if base_model.name.lower() != found.name.lower():
            problem = f"of {short(base_model.name)}, this is {short(found.name)}"
    elif base_model.weights and folder and Path(folder).is_dir() and base_model.weights != weights_digest(Path(folder)):
        problem = f"of {short(base_model.name)}, whose weights are not those of {folder}"
    if problem is not None:
        raise WrongHostError(f"{what} is an adapter {problem}: allow_other_host=True takes it all the same")


def _only_commit(hub_id: str) -> str | None:
    from huggingface_hub import constants

    folder: Any = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    commits = [entry.name for entry in folder.iterdir()] if hub_id and folder.is_dir() else []
    return commits[0] if len(commits) == 1 else None
