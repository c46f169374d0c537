"""Which host a model is, and whether an adapter was trained in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import WrongHostError
from ..origin import Origin, hub_snapshot, weights_digest
from ..params import short


def origin_of(model: PreTrainedModel) -> Origin:
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
    return Origin(hub_id, revision, kind, width)


def refuse_other(model: PreTrainedModel, origin: Origin, what: str) -> None:
    """Refuse a host in which an adapter was not trained, as far as both sides are known.

    Of a host from the Hub the id is compared, not the commit, since most commits touch no weights; of one from a folder
    the digest of its weights, if the adapter names one.

    Args:
        origin: of the adapter. what: name of the adapter.

    Raises:
        WrongHostError: another kind, width, Hub id, or other weights.
    """
    found = origin_of(model)
    folder = str(model.name_or_path or "")
    problem = None
    if origin.kind not in (None, found.kind):
        problem = f"of a {short(origin.kind)} host, this is {found.kind!r}"
    elif origin.width not in (None, found.width):
        problem = f"of a host of width {origin.width}, this {type(model).__name__} has {found.width}"
    elif origin.revision and origin.name and found.name:
        if origin.name.lower() != found.name.lower():
            problem = f"of {short(origin.name)}, this is {short(found.name)}"
    elif origin.weights and folder and Path(folder).is_dir() and origin.weights != weights_digest(Path(folder)):
        problem = f"of {short(origin.name)}, whose weights are not those of {folder}"
    if problem is not None:
        raise WrongHostError(f"{what} is an adapter {problem}: other_host=True takes it all the same")


def _only_commit(hub_id: str) -> str | None:
    from huggingface_hub import constants

    folder: Any = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    commits = [entry.name for entry in folder.iterdir()] if hub_id and folder.is_dir() else []
    return commits[0] if len(commits) == 1 else None
