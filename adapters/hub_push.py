"""An adapter folder onto the Hub: one commit, and a tag. What is no file of an adapter is never uploaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import ConfigError, HubError
from .folder import CONFIG, WEIGHTS
from .hub import CARD, HUB_ID, LORA_FILES
from .hub_errors import asking_hub
from .params import short

PUSHED = (CONFIG, WEIGHTS, *LORA_FILES, CARD)
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_target(repository: str, tag: str | None = None) -> None:
    """Find out before any work that names are no names.

    Raises:
        ConfigError: not ``user/name``, or no tag.
    """
    found = HUB_ID.fullmatch(repository)
    if found is None or found["revision"] is not None:
        raise ConfigError(f"an adapter is pushed to 'user/name', not to {short(repository)}")
    if tag is not None and (not _TAG.fullmatch(tag) or ".." in tag or tag.endswith(".lock")):
        raise ConfigError(f"{short(tag)} cannot be a tag: letters, digits, dots, dashes and underscores")


def push(folder: Path, repository: str, *, private: bool = False, tag: str | None = None, message: str = "") -> str:
    """Upload an adapter folder in one commit, and tag it; the repository is made if there is none.

    Files of an adapter that are in the repository and not in the folder go away in the same commit. Until the commit
    is there whole, nothing has changed; after an interruption the same call goes on.

    Args:
        private: nobody but you and those whom you let in may see it. A public repository is not made private.
        tag: such as v1; there must be none of that name.

    Returns:
        URL of the commit.

    Raises:
        ConfigError: no such target. HubError: no permission, a tag that exists, a public repository that should be
            private, or a connection that broke.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_target(repository, tag)
    api: Any = HfApi()
    with asking_hub(repository, doing="push"):
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository)
        if private and not info.private:
            raise HubError(
                f"{repository} is public already: make it private on its settings page, or take another name"
            )
        if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repository).tags}:
            raise HubError(f"{repository} has a tag {tag!r} already: take another; nothing was published")
        here = [name for name in PUSHED if (folder / name).is_file() and not (folder / name).is_symlink()]
        there = {one.rfilename for one in info.siblings or ()}
        operations: list[Any] = [CommitOperationAdd(name, str(folder / name)) for name in here]
        operations += [CommitOperationDelete(name) for name in PUSHED if name in there and name not in here]
        done = api.create_commit(
            repository, operations, commit_message=message or "Upload adapter", parent_commit=info.sha
        )
    if tag is not None:
        _tag(api, repository, tag, done.oid)
    return str(done.commit_url)


def _tag(api: Any, repository: str, tag: str, commit: str) -> None:
    try:
        with asking_hub(repository, doing="push"):
            api.create_tag(repository, tag=tag, revision=commit)
    except HubError as error:
        raise HubError(
            f"{repository} is published as commit {commit[:10]}, but without its tag {tag}: {error}"
        ) from error
