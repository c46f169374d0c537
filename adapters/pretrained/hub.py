"""Finding, downloading and pushing adapters on the Hub.

Only the files of an adapter are transferred. A file is downloaded only if its size is plausible.
"""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from framefold.errors import AdapterFileError, ConfigError, HubError
from framefold.messages import short

from . import hub_errors
from .config import CONFIG, MAX_CONFIG, read_config
from .folder import UnloadedCompressor
from .hub_errors import hub_request, is_unreachable, root_cause
from .weights import WEIGHTS, max_file_size

CARD = "README.md"

LORA_FILES = LORA_CONFIG, LORA_WEIGHTS = "lora/adapter_config.json", "lora/adapter_model.safetensors"

# Written by PEFT's own ``save_pretrained``, see :mod:`framefold.adapters.hosts.hooks.peft_guard`.
PEFT_FILES = PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

ADAPTER_FILES = (CONFIG, WEIGHTS, *LORA_FILES, *PEFT_FILES)

MAX_LORA_SIZE = 2**34  # bytes

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"

HUB_ID = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[^\s@]+))?")


def locate_adapter(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """Return the folder of an adapter; an adapter on the Hub is downloaded.

    A text of the form ``user/name`` is the folder of that name if it exists, otherwise a repository on the Hub;
    ``user/name@revision`` is always a repository. Everything else, and every ``Path``, is a folder.

    Args:
        source: folder or Hub id.
        revision: branch, tag or commit; makes ``user/name`` a repository.

    Returns:
        The folder. Its content is not checked here.

    Raises:
        ConfigError: a revision was given for a folder, or two revisions were given.
        AdapterFileError: there is no such folder, and the text looks like a path.
        HubError: no such repository or revision, no permission, no connection, or files of implausible size.
    """
    match = HUB_ID.fullmatch(source) if isinstance(source, str) else None
    if match is None:
        if revision is not None:
            raise ConfigError(f"{source} is a folder: a revision can only be given for 'user/name' on the Hub")
        return Path(source)
    repository, pinned = match["repository"], match["revision"]
    if revision is not None and pinned is not None:
        raise ConfigError(f"{source} contains a revision, and revision={revision!r} was also given: give only one")
    if revision is None and pinned is None:
        if Path(repository).exists():
            return Path(repository)
        if Path(repository).parent.is_dir():
            raise AdapterFileError(
                f"{repository} is not an adapter folder, it does not exist; for the Hub, write {repository}@main"
            )
    return download_adapter(repository, revision or pinned)


def resolve_adapter(text: str) -> str:
    """Replace a Hub id given on the command line with the folder that it is downloaded to.

    Names of compressors and folders are returned unchanged.

    Raises:
        AdapterFileError: see :func:`locate_adapter`.
        HubError: see :func:`locate_adapter`.
    """
    folder = locate_adapter(text)
    return text if folder == Path(text) else str(folder)


def download_adapter(repository: str, revision: str | None = None) -> Path:
    """Download the adapter of a repository into the cache of huggingface_hub.

    If the Hub cannot be reached, or ``HF_HUB_OFFLINE`` is set, the cached copy is used.

    Raises:
        HubError: see :func:`locate_adapter`.
        AdapterFileError: the config is invalid.
    """
    from huggingface_hub import snapshot_download

    arguments: dict[str, Any] = {"repo_id": repository, "revision": revision, "allow_patterns": list(ADAPTER_FILES)}
    with hub_request(repository, revision):
        try:
            commit, files = _check_sizes(repository, revision)
        except Exception as error:
            if isinstance(error, AdapterFileError | HubError) or not is_unreachable(error):
                raise
            folder = Path(snapshot_download(**arguments, local_files_only=True))
            _refuse_incomplete(folder)
            _warn_cached(repository, folder, error)
            return folder
        folder = _download(arguments, commit, files)
    if folder.name != commit:
        raise HubError(f"{repository} was changed while it was being loaded: try again")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:  # the client only warns if the Hub is too busy to list the files, and returns those that it has
        raise HubError(f"the Hub is busy and has not sent {', '.join(missing)} of {repository}: try again later")
    return folder


def _download(arguments: dict[str, Any], commit: str, files: list[str]) -> Path:
    """Download a snapshot; if the connection is lost, the cache may already have all files of its commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(**arguments))
    except Exception as error:
        if not is_unreachable(error):
            raise
        with suppress(LocalEntryNotFoundError):
            folder = Path(snapshot_download(**{**arguments, "revision": commit}, local_files_only=True))
            if all((folder / name).is_file() for name in files):
                return folder
        raise


def _refuse_incomplete(folder: Path) -> None:
    """Refuse a cached adapter without weights, left by a load that was interrupted."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not (folder / CONFIG).is_file() or (folder / WEIGHTS).is_file():
        return
    if UnloadedCompressor.from_config(read_config(folder), folder / CONFIG).saved_tensors():
        raise LocalEntryNotFoundError(f"{folder} has no {WEIGHTS}")


def _check_sizes(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """Check the sizes of the files on the Hub against the config; return the commit and the names of the files."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=hub_errors.TIMEOUT)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or () if file.rfilename in ADAPTER_FILES}
    if not sizes.keys() & {CONFIG, PEFT_CONFIG}:
        raise HubError(f"{repository} is not a framefold adapter: it has no {CONFIG}")
    limits = dict.fromkeys((CONFIG, LORA_CONFIG, PEFT_CONFIG), MAX_CONFIG)
    limits |= dict.fromkeys((LORA_WEIGHTS, PEFT_WEIGHTS), MAX_LORA_SIZE)
    _refuse_larger(repository, sizes, limits)
    if CONFIG in sizes:
        file = Path(hf_hub_download(repository, CONFIG, revision=info.sha))
        config = read_config(file.parent)
        tensors = UnloadedCompressor.from_config(config, f"{CONFIG} of {repository}").saved_tensors()
        if tensors and WEIGHTS not in sizes:
            raise HubError(f"{repository} has no {WEIGHTS}, which its {CONFIG} requires: its owner must push it again")
        _refuse_larger(repository, sizes, {WEIGHTS: max_file_size(tensors)})
    return str(info.sha), sorted(sizes)


def _refuse_larger(repository: str, sizes: dict[str, int], limits: dict[str, int]) -> None:
    for name, limit in limits.items():
        if sizes.get(name, 0) > limit:
            raise HubError(f"{name} of {repository} has {sizes[name]:,} bytes, more than its maximum of {limit:,}")


def _warn_cached(repository: str, folder: Path, error: Exception) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if not isinstance(error, OfflineModeIsEnabled):
        name = type(root_cause(error)).__name__
        warnings.warn(
            f"the Hub cannot be reached ({name}): using {repository} from the cache, commit {folder.name[:10]}",
            stacklevel=5,
        )


PUSHED_FILES = (CONFIG, WEIGHTS, *LORA_FILES, CARD)

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_push_target(repository: str, tag: str | None = None) -> None:
    """Check the names of a repository and a tag before any work is done.

    Raises:
        ConfigError: the repository is not ``user/name``, or the tag is invalid.
    """
    match = HUB_ID.fullmatch(repository)
    if match is None or match["revision"] is not None:
        raise ConfigError(f"an adapter is pushed to 'user/name', not to {short(repository)}")
    if tag is not None and (not _TAG.fullmatch(tag) or ".." in tag or tag.endswith(".lock")):
        raise ConfigError(f"{short(tag)} cannot be a tag: use letters, digits, dots, dashes and underscores")


def push_folder(
    folder: Path, repository: str, *, private: bool = False, tag: str | None = None, message: str = ""
) -> str:
    """Push an adapter folder to the Hub in one commit and tag it; other files are never uploaded.

    Files of an adapter that are in the repository but not in the folder are deleted in the same commit. Until the
    commit is complete, nothing changes; after an interruption, the same call can be repeated.

    Args:
        folder: the adapter folder.
        repository: ``user/name``; created if it does not exist.
        private: create a private repository. A public repository is not made private.
        tag: new tag of the commit, such as v1.
        message: commit message.

    Returns:
        URL of the commit.

    Raises:
        ConfigError: an invalid name or tag.
        HubError: no permission, a tag that already exists, a public repository although ``private`` is set, or a lost
            connection.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_push_target(repository, tag)
    api: Any = HfApi()
    with hub_request(repository, doing="push"):
        api.create_repo(repository, private=private or None, exist_ok=True)
        info = api.model_info(repository, timeout=hub_errors.TIMEOUT)  # without it, the client would wait forever
        if private and not info.private:
            raise HubError(f"{repository} is already public: make it private on its settings page, or use another name")
        if tag is not None and tag in {ref.name for ref in api.list_repo_refs(repository).tags}:
            raise HubError(f"{repository} already has a tag {tag!r}: use another; nothing was published")
        local = [name for name in PUSHED_FILES if (folder / name).is_file() and not (folder / name).is_symlink()]
        remote = {file.rfilename for file in info.siblings or ()}
        operations: list[Any] = [CommitOperationAdd(name, str(folder / name)) for name in local]
        operations += [CommitOperationDelete(name) for name in PUSHED_FILES if name in remote and name not in local]
        commit = api.create_commit(
            repository, operations, commit_message=message or "Upload adapter", parent_commit=info.sha
        )
    if tag is not None:
        _create_tag(api, repository, tag, commit.oid)
    return str(commit.commit_url)


def _create_tag(api: Any, repository: str, tag: str, commit: str) -> None:
    try:
        with hub_request(repository, doing="push"):
            api.create_tag(repository, tag=tag, revision=commit)
    except HubError as error:
        raise HubError(
            f"{repository} was published as commit {commit[:10]}, but without its tag {tag}: {error}"
        ) from error
