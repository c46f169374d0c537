"""Whether a host can be trained on data, found out before training starts."""

from __future__ import annotations

from typing import Any

from ..data.shard_index import FEATURES, Index
from .hostio import Host

Sets = list[Index | None]  # None: videos that are made on the fly


def fit_to_data(host: Host, sets: Sets) -> None:
    """Check data against a host; where all of it is features, the vision encoder is dropped.

    Raises:
        HostError: features of another host, or videos that this host cannot be shown here.
        MissingExtraError: videos, and what this host's processor needs is missing.
    """
    videos = [index for index in sets if index is None or index.kind != FEATURES]
    for index in sets:
        if index is not None and index.kind == FEATURES and "host" in index.settings:
            host.check_made(index.settings["host"], index.source)
    if videos:
        host.check_videos()
    elif sets:
        host.drop_vision()


def sets_of(trainer: Any, stage: str) -> Sets:
    """What a stage of a trainer reads, where it has a data module of ours."""
    data = trainer.datamodule
    if not hasattr(data, "val_shards"):
        return []
    validates = stage != "fit" or trainer.limit_val_batches != 0
    return ([data.shards] if stage == "fit" else []) + ([data.val_shards] if validates else [])
