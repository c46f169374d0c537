"""Hold out a share of shards for validation, by the keys of the samples.

Which samples are held out depends on their keys only: not on the order of shards, the seed, or the numbers of ranks and
workers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from framefold.errors import DataError

from .index import Index, KeyFilter, Shard
from .location import NOT_LOCAL
from .sources import read_samples


@dataclass(frozen=True)
class HashedKeys(KeyFilter):
    """The keys whose hash is at most a limit, or all others.

    Attributes:
        limit: largest hash of a key that is held out.
        is_held_out: whether the filter accepts the keys that are held out, or the others.
    """

    limit: int
    is_held_out: bool

    def accepts(self, key: str) -> bool:
        """Return whether a sample belongs to this part."""
        return (key_hash(key) <= self.limit) == self.is_held_out


def key_hash(key: str) -> int:
    """Return a number from 0 to 2**64 - 1, the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def hold_out(index: Index, share: float) -> tuple[Index, Index]:
    """Split shards by the keys of their samples; reads every shard once, without decoding videos.

    Args:
        index: local shards.
        share: fraction of the samples to hold out, between 0 and 1; at least one sample.

    Returns:
        Samples for training, and those that are held out.

    Raises:
        DataError: the share is out of range, a shard is not local, or nothing would be left to train.
    """
    if not 0 < share < 1:
        raise DataError(
            f"data.val_share must be between 0 and 1, not {share:g}; without it, and without data.val_shards, nothing "
            "is validated"
        )
    remote = next((shard.path for shard in index.shards if shard.path.startswith(NOT_LOCAL)), None)
    if remote is not None:
        raise DataError(
            f"data.val_share reads the keys of all samples, for which {remote} would have to be downloaded: keep some "
            "of the shards for validation and name them with data.val_shards"
        )
    keys = [_keys_of(shard) for shard in index.shards]
    hashes = sorted({key_hash(key) for shard in keys for key in shard})
    count = max(1, round(share * len(hashes)))
    if count >= len(hashes):
        raise DataError(
            f"data.val_share {share:g} of the {len(hashes)} samples in {index.source} leaves none to train: lower it, "
            "or name other shards with data.val_shards"
        )
    training, validation = (_part(index, keys, HashedKeys(hashes[count - 1], held_out)) for held_out in (False, True))
    return training, validation


def _keys_of(shard: Shard) -> list[str]:
    """Return the keys of a shard in order; a damaged end is left out, as in the index."""
    return [str(raw["__key__"]) for raw in read_samples(shard.path, lambda error: True)][: shard.samples]


def _part(index: Index, keys: list[list[str]], accepted: HashedKeys) -> Index:
    shards = []
    for shard, names in zip(index.shards, keys, strict=True):
        chosen = [i for i, name in enumerate(names) if accepted.accepts(name)]
        lengths = tuple(shard.lengths[i] for i in chosen) if shard.lengths else ()
        missing = 0 if accepted.is_held_out else shard.samples - len(names)  # damage is counted in training
        shards.append(Shard(shard.path, len(chosen) + missing, lengths + (1,) * (missing if lengths else 0)))
    return replace(index, shards=tuple(shards), keys=accepted)
