"""The command ``framefold shards check``: read every sample, and compare its texts with a host's special tokens.

This module must not import transformers when it is imported, which would look for torchvision too early.
"""

from __future__ import annotations

from framefold.data.shards.check import check_shards
from framefold.errors import HostError

from .locate import find_host
from .vocabulary import special_tokens


def check_samples(shards: str, index: str | None = None, host: str | None = None, revision: str | None = None) -> int:
    """Open every sample of shards, and report what is damaged.

    Args:
        shards: folder that ``framefold shards`` wrote, tar files, globs, brace lists, URLs or ``pipe:`` commands.
        index: file or URL of their index, if it is not next to them.
        host: folder of a host, or its id in the cache of the Hub: report texts with its special tokens. By default,
            texts with a special token of any supported host are reported.
        revision: of a host from the Hub.

    Returns:
        0 if all samples are intact, 1 otherwise.

    Raises:
        DataError: There are no shards, or they have no index and need one.
        HostError: There is no such host, or its tokenizer does not load.
    """
    return check_shards(shards, index, None if host is None else _load_special_tokens(host, revision))


def _load_special_tokens(host: str, revision: str | None) -> tuple[str, ...]:
    from transformers import AutoTokenizer

    from .processor import load_config

    folder = str(find_host(host, revision).folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"the tokenizer of {host} does not load: {error}") from error
    return special_tokens(tokenizer, load_config(folder))
