"""Check of data against a host, before training starts."""

from __future__ import annotations

from framefold.data.shards.index import FEATURES, Index

from .host import Host

DataSources = list[Index | None]  # None: synthetic videos, generated during training


def check_data(host: Host, sources: DataSources) -> None:
    """Check data against a host, and drop the vision encoder if all data are features.

    Raises:
        HostError: Features of another host, or videos that this host cannot encode in this environment.
        MissingExtraError: There are videos, and a package that the processor of this host needs is missing.
    """
    videos = [index for index in sources if index is None or index.kind != FEATURES]
    for index in sources:
        if index is not None and index.kind == FEATURES and "host" in index.settings:
            host.check_features_host(index.settings["host"], index.source)
    if videos:
        host.check_videos()
    elif sources:
        host.drop_vision()
