"""A share of the samples is held out by key: always the same ones, and none of them is trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from framefold.data.loading.loader import ResumableLoader
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards.held_out import hold_out
from framefold.data.shards.index import Index, Shard
from framefold.data.shards.sources import resolve_shards
from framefold.errors import DataError


def keys(index: Index, **settings: object) -> set[str]:
    stream = ShardStream(index, 3, **settings)  # type: ignore[arg-type]
    found = [sample.key for batch in ResumableLoader(stream) for sample in batch.samples]
    assert len(found) == len(set(found)) == index.samples
    return set(found)


def test_a_share_is_held_out_whatever_the_order_and_the_number_of_shards(shards: Path, tmp_path: Path) -> None:
    training, validation = hold_out(resolve_shards(str(shards)), 0.2)
    held = keys(validation, shuffle=False)
    assert (training.samples, validation.samples) == (18, 4)
    assert keys(training, seed=3) == keys(resolve_shards(str(shards))) - held
    assert [len(shard.lengths) for shard in training.shards] == [shard.samples for shard in training.shards]
    assert keys(training, max_tokens=10_000, tokens_per_frame=16).isdisjoint(held)
    reverse = "::".join(str(path) for path in sorted(shards.glob("*.tar"), reverse=True))
    assert keys(hold_out(resolve_shards(reverse), 0.2)[1]) == held
    assert keys(hold_out(resolve_shards(str(shards)), 0.001)[1]) < held  # at least one


def test_a_share_that_cannot_be_held_out_is_refused(shards: Path) -> None:
    index = resolve_shards(str(shards))
    for share, text in ((0.0, "between 0 and 1"), (1.0, "between 0 and 1"), (0.99, "leaves none to train")):
        with pytest.raises(DataError, match=text):
            hold_out(index, share)
    with pytest.raises(DataError, match="downloaded.*data.val_shards"):
        hold_out(Index((Shard("https://example.org/a.tar", 3),)), 0.5)


def test_damage_stays_in_the_training_samples(shards: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    (copy / "shard-000001.tar").write_bytes(b"no tar" * 1000)
    training, validation = hold_out(resolve_shards(str(copy)), 0.2)
    assert training.samples + validation.samples == 22
    stream = ShardStream(training, 1, max_damaged=1.0)
    with pytest.warns(UserWarning, match="damaged sample skipped"):
        loader = ResumableLoader(stream)
        list(loader)
    assert loader.damaged == 8
