"""Adapters by name: ``user/name`` on the Hub, at a branch, a tag or a commit, or a folder.

Only the files of an adapter are downloaded, and each of them only if its size is one that such a file can have.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from framefold.errors import AdapterFileError, ConfigError, HubError
from framefold.messages import short

from .config import CONFIG, MAX_CONFIG, read_config
from .folder import Outline
from .hub_errors import asking_hub, is_unreachable
from .weights import WEIGHTS, largest_file

CARD = "README.md"

LORA_FILES = LORA_CONFIG, LORA_WEIGHTS = "lora/adapter_config.json", "lora/adapter_model.safetensors"

MARKED = MARKED_CONFIG, MARKED_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # PEFT's, see peft_guard

FILES = (CONFIG, WEIGHTS, *LORA_FILES, *MARKED)

LARGEST_LORA = 2**34  # bytes

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

HUB_ID = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[^\s@]+))?")


def locate(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of an adapter, which is downloaded if it is one on the Hub.

    A text of the form ``user/name`` is the folder of that name, if there is one, and a repository on the Hub if there
    is none; ``user/name@revision`` is always a repository. Anything else, and every ``Path``, is a folder.

    Args:
        source: folder or Hub id.
        revision: branch, tag or commit; makes ``user/name`` a repository.

    Returns:
        A folder; whether it holds an adapter is found out by reading it.

    Raises:
        ConfigError: a revision of a folder, or two revisions.
        AdapterFileError: no such folder, and a text that looks like a path.
        HubError: no such repository or revision, no permission, no connection, or files that no adapter has.
    """
    found = HUB_ID.fullmatch(source) if isinstance(source, str) else None
    if found is None:
        if revision is not None:
            raise ConfigError(f"{source} is a folder: a revision is for 'user/name' on the Hub")
        return Path(source)
    repository, pinned = found["repository"], found["revision"]
    if revision is not None and pinned is not None:
        raise ConfigError(f"{source} names a revision, and so does revision={revision!r}: give one")
    if revision is None and pinned is None:
        if Path(repository).exists():
            return Path(repository)
        if Path(repository).parent.is_dir():
            raise AdapterFileError(
                f"{repository} is no adapter folder, there is none; on the Hub it would be {repository}@main"
            )
    return fetch(repository, revision or pinned)


def resolve_adapter(text: str) -> str:
    """What the command line takes for an adapter or a compressor, a Hub id replaced by the folder it is loaded into.

    Names of compressors and folders stay what they are.

    Raises:
        AdapterFileError, HubError: as of :func:`locate`.
    """
    folder = locate(text)
    return text if folder == Path(text) else str(folder)


def fetch(repository: str, revision: str | None = None) -> Path:
    """Download the adapter of a repository into the cache of huggingface_hub, or take it from there.

    Where the Hub cannot be reached, or ``HF_HUB_OFFLINE`` is set, the cached copy is taken.

    Raises:
        HubError: see :func:`locate`. AdapterFileError: a config that is not one.
    """
    from huggingface_hub import snapshot_download

    how: dict[str, Any] = {"repo_id": repository, "revision": revision, "allow_patterns": list(FILES)}
    with asking_hub(repository, revision):
        try:
            commit = _check_sizes(repository, revision)
        except Exception as error:
            if isinstance(error, AdapterFileError | HubError) or not is_unreachable(error):
                raise
            folder = Path(snapshot_download(**how, local_files_only=True))
            _say_cached(repository, folder, error)
            return folder
        folder = Path(snapshot_download(**how))
    if folder.name != commit:
        raise HubError(f"{repository} was changed while it was loaded: do it again")
    return folder


def _check_sizes(repository: str, revision: str | None) -> str:
    """Compare the sizes of the files on the Hub with what the config asks for; returns the commit."""
    from huggingface_hub import HfApi, hf_hub_download

    from .hub_errors import TIMEOUT

    info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT)
    sizes = {one.rfilename: one.size or 0 for one in info.siblings or () if one.rfilename in FILES}
    if not sizes.keys() & {CONFIG, MARKED_CONFIG}:
        raise HubError(f"{repository} is no framefold adapter: it has no {CONFIG}")
    limits = dict.fromkeys((CONFIG, LORA_CONFIG, MARKED_CONFIG), MAX_CONFIG)
    limits |= dict.fromkeys((LORA_WEIGHTS, MARKED_WEIGHTS), LARGEST_LORA)
    _refuse_larger(repository, sizes, limits)
    if CONFIG in sizes:
        file = Path(hf_hub_download(repository, CONFIG, revision=info.sha))
        wanted = Outline.of(read_config(file.parent), f"{CONFIG} of {repository}").model.state_dict()
        if wanted and WEIGHTS not in sizes:
            raise HubError(f"{repository} has no {WEIGHTS}, which its {CONFIG} asks for: its owner must push it again")
        _refuse_larger(repository, sizes, {WEIGHTS: largest_file(wanted)})
    return str(info.sha)


def _refuse_larger(repository: str, sizes: dict[str, int], limits: dict[str, int]) -> None:
    for name, limit in limits.items():
        if sizes.get(name, 0) > limit:
            raise HubError(f"{name} of {repository} has {sizes[name]:,} bytes, more than the {limit:,} it could need")


def _say_cached(repository: str, folder: Path, error: Exception) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not isinstance(error, OfflineModeIsEnabled):
        warnings.warn(
            f"the Hub cannot be reached ({type(error).__name__}): {repository} is the cached {folder.name[:10]}",
            stacklevel=5,
        )


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
