"""The data module: shards with an index elsewhere, and settings that contradict each other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from framefold.errors import DataError
from framefold.training.datamodule import VideoData


def test_index_may_be_elsewhere(shards: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(shards, tmp_path / "bare")
    index = (bare / "index.json").rename(tmp_path / "mine.json")
    command = f"pipe:cat {bare}/shard-{{000000..000002}}.tar"
    data = VideoData(shards=command, index=str(index), batch_size=4)
    assert data.train_stream().index.samples == 22
    with pytest.raises(DataError, match="framefold shards index"):
        VideoData(shards=command, batch_size=4)


def test_token_budget_requires_shards() -> None:
    with pytest.raises(DataError, match="max_tokens must be positive and requires shards"):
        VideoData(max_tokens=100)
