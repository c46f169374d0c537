"""Whether a host can be trained on data, found out before training starts."""

from __future__ import annotations

from framefold.data.shards.index import FEATURES, Index

from .host import Host

Sets = list[Index | None]  # None: videos that are made on the fly


def check_data(host: Host, sets: Sets) -> None:
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
