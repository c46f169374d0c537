"""Adapters by name: ``user/name`` on the Hub, at a branch, a tag or a commit, or a folder.

Only the files of an adapter are downloaded, and each of them only if its size is one that such a file can have.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from .config_file import CONFIG, MAX_CONFIG, read_config
from .errors import AdapterFileError, ConfigError, HubError
from .folder import Outline
from .hub_errors import asking_hub, is_unreachable
from .weights_file import WEIGHTS, largest_file

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


def resolve(text: str) -> str:
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
