"""Reading shards: every sample once, equal steps on all ranks, exact resume, damage counted."""

from __future__ import annotations

import itertools
import shutil
import warnings

import pytest

from framefold.data.loading.loader import Batch, ResumableLoader, Stream
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import DataError


class Numbers(Stream):
    """Places in the row in place of samples: the arithmetic of lanes, ranks, workers and resuming."""

    def parts(self, epoch, places, sizes, wanted):
        ends = list(itertools.accumulate(sizes))
        for batch in wanted:
            row = places[ends[batch] - sizes[batch] : ends[batch]]
            yield [(epoch, place % self.layout.units) for place in row[self.seat.part(row)]], ()


def epochs(loader: ResumableLoader, count: int = 2) -> list[list]:
    return [[batch.samples for batch in loader] for _ in range(count)]


def keys(loader: ResumableLoader) -> list[tuple[str, ...]]:
    return [tuple(sample.key for sample in batch.samples) for batch in loader]


def take(loader: ResumableLoader, count: int) -> list:
    taken: list = []
    while len(taken) < count:
        taken += itertools.islice((batch.samples for batch in loader), count - len(taken))
    return taken


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize(("samples", "batch"), [(22, 4), (24, 4), (3, 8), (10, 1)])
def test_every_sample_once_an_epoch(samples, batch, workers):
    loader = ResumableLoader(Numbers(samples, batch), workers)
    for epoch, batches in enumerate(epochs(loader)):
        assert len(batches) == len(loader) == -(-samples // batch)
        assert sorted(slot for rows in batches for slot in rows) == [(epoch, slot) for slot in range(samples)]


@pytest.mark.parametrize(("samples", "world"), [(24, 2), (22, 3), (22, 5), (3, 4), (1, 4)])
def test_ranks_take_equally_many_steps_and_miss_nothing(samples, world):
    parts = [epochs(ResumableLoader(Numbers(samples, 4, rank=r, world=world)), 1)[0] for r in range(world)]
    assert len({len(part) for part in parts}) == 1
    slots = [slot for part in parts for batch in part for _, slot in batch]
    assert set(slots) == set(range(samples))
    assert len(slots) == max(samples, world)  # with fewer samples than ranks, some come twice


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("done", [0, 1, 4, 5, 6, 7, 11, 12])
def test_resuming_is_exact_at_any_batch(workers, done):
    make = lambda: ResumableLoader(Numbers(22, 4), workers)  # noqa: E731
    whole = [rows for batches in epochs(make(), 3) for rows in batches]
    before = make()
    assert take(before, done) == whole[:done]
    after = make()
    after.load_state_dict(before.state_dict())
    rest = [rows for batches in epochs(after, 3) for rows in batches]
    assert rest[: len(whole) - done] == whole[done:]


def test_asking_twice_for_an_iterator_changes_nothing():
    loader = ResumableLoader(Numbers(22, 4))
    iter(loader)
    first = epochs(loader, 1)
    fresh = ResumableLoader(Numbers(22, 4))
    assert first == epochs(fresh, 1)
    state = {**fresh.state_dict(), "epoch": 1, "done": 2}
    loader.load_state_dict(state)
    iter(loader)
    assert next(iter(loader)).samples == epochs(fresh, 1)[0][2]


def test_an_epoch_that_was_cut_short_is_over():
    loader = ResumableLoader(Numbers(22, 4))
    next(iter(loader))
    assert next(iter(loader)).samples[0] == (1, 0)


def test_another_layout_goes_on_with_the_next_epoch():
    loader = ResumableLoader(Numbers(22, 4))
    next(iter(loader))
    for other, why in (
        (ResumableLoader(Numbers(22, 5)), "batch_size 4 on 1 ranks would keep it"),
        (ResumableLoader(Numbers(22, 4, world=2)), "batch_size 2 on 2 ranks would keep it"),
        (ResumableLoader(Numbers(22, 4, seed=1)), "layout changed"),
        (ResumableLoader(Numbers(23, 4)), "layout changed"),
    ):
        with pytest.warns(UserWarning, match=f"{why}.*next epoch"):
            other.load_state_dict(loader.state_dict())
        assert next(iter(other)).samples[0] == (1, 0)


def test_validation_is_the_same_every_time():
    loader = ResumableLoader(Numbers(22, 4), same=True)
    next(iter(loader))
    first, second = epochs(loader)
    assert first == second


# ---- shards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_shuffled_anew_each_epoch_and_resume_exactly(shards, workers):
    make = lambda: ResumableLoader(ShardStream(str(shards), 4, seed=1), workers)  # noqa: E731
    loader = make()
    first, second = keys(loader), keys(loader)
    assert sorted(sum(first, ())) == sorted(sum(second, ())) == [f"train-5-{i:08d}" for i in range(22)]
    assert first != second
    for done in (1, 3, 6, 8):
        after = make()
        after.load_state_dict({**loader.state_dict(), "epoch": done // 6, "done": done % 6})
        assert keys(after) == (first + second)[done : done + 6 - done % 6]


def test_without_shuffling_the_order_is_that_of_the_files(shards):
    loader = ResumableLoader(ShardStream(str(shards), 4, shuffle=False))
    assert sum(keys(loader), ()) == tuple(f"train-5-{i:08d}" for i in range(22))


def test_more_ranks_than_shards(shards):
    parts = [keys(ResumableLoader(ShardStream(str(shards), 2, rank=rank, world=7))) for rank in range(7)]
    assert {len(part) for part in parts} == {2}
    assert len({key for part in parts for batch in part for key in batch}) == 22


def test_samples_have_what_training_needs(shards):
    sample = next(iter(ShardStream(str(shards), 4))).samples[0]
    assert sample.frames.shape[1:] == (64, 64, 3) and str(sample.frames.dtype) == "torch.uint8"
    assert len(sample.times) == len(sample.frames) and sample.questions[0].answer in sample.questions[0].choices


@pytest.fixture
def copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def spoil(folder, what):
    """Damage shard 1 (samples 8..15) and return how many samples are lost."""
    shard = folder / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    if what == "mp4":
        at = data.index(b"ftyp")
        data[at : at + 2000] = bytes(2000)
        shard.write_bytes(data)
        return 1
    if what == "json":
        at = data.index(b'{"schema"')
        data[at : at + 3] = b"???"
        shard.write_bytes(data)
        return 1
    if what == "truncated":
        shard.write_bytes(data[: len(data) // 2])
        return 4
    if what == "garbage":
        shard.write_bytes(bytes(range(256)) * 40)
        return 8
    shard.unlink()
    return 8


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("what", ["mp4", "json", "truncated", "garbage", "missing"])
def test_damage_is_skipped_counted_and_does_not_change_the_number_of_steps(copy, what, workers):
    lost = spoil(copy, what)
    make = lambda: ResumableLoader(ShardStream(str(copy), 4, seed=1, max_damaged=0.9), workers)  # noqa: E731
    loader = make()
    with pytest.warns(UserWarning, match="damaged sample skipped"):
        first = keys(loader)
    assert len(first) == len(loader) == 6 and all(first)  # a batch that lost all of its samples gets another one
    assert abs(loader.damaged - lost) <= (what == "truncated")  # the cut may go through a sample or between two
    assert len(set(sum(first, ()))) == 22 - loader.damaged
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second = keys(loader)
        for done in (1, 5, 7):
            after = make()
            after.load_state_dict({**loader.state_dict(), "epoch": done // 6, "done": done % 6})
            assert keys(after) == (first + second)[done : done + 6 - done % 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_much_damage_is_an_error(copy, workers):
    spoil(copy, "garbage")
    with pytest.raises(
        DataError, match="samples of .* are damaged in this epoch, more than max_damaged allows"
    ) as caught:
        keys(ResumableLoader(ShardStream(str(copy), 4), workers))
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_reader_whose_samples_are_all_damaged_gets_one_of_another(copy):
    (copy / "shard-000001.tar").unlink()
    streams = [ShardStream(str(copy), 4, shuffle=False, max_damaged=1.0, rank=rank, world=3) for rank in range(3)]
    with pytest.warns(UserWarning, match="damaged sample skipped"):
        found = [keys(ResumableLoader(stream)) for stream in streams]
    assert {len(batches) for batches in found} == {2} and all(batch for batches in found for batch in batches)
    alone = [ResumableLoader(ShardStream(str(copy), 1, shuffle=False, max_damaged=1.0, rank=8, world=22))]
    with pytest.warns(UserWarning, match="shard-000001.tar is missing"):
        assert keys(alone[0]) == [("train-5-00000000",)]


def test_nothing_readable_is_an_error_even_if_all_damage_is_allowed(copy):
    for shard in copy.glob("*.tar"):
        shard.write_bytes(b"")
    with pytest.raises(DataError, match="no sample"):
        keys(ResumableLoader(ShardStream(str(copy), 4, max_damaged=1.0)))


def test_settings_out_of_range_are_data_errors(shards, tmp_path):
    for wrong in (dict(batch_size=0), dict(max_damaged=2.0), dict(buffer=0)):
        with pytest.raises(DataError):
            ShardStream(str(shards), **{"batch_size": 4, **wrong})
    with pytest.raises(DataError, match="framefold shards synth"):
        ShardStream(str(tmp_path / "nowhere"), 4)


# ---- on the fly -----------------------------------------------------------------------------------------------------


def test_synthetic_epochs_are_new_and_validation_is_not():
    recipe = Recipe((16, 18))
    fresh = ResumableLoader(SyntheticStream(recipe, 6, 4))
    assert set(sum(keys(fresh), ())).isdisjoint(sum(keys(fresh), ()))
    fixed = ResumableLoader(SyntheticStream(recipe, 6, 4, fresh=False))
    assert keys(fixed) == keys(fixed)


def test_on_the_fly_and_from_lossless_shards_are_the_same(tmp_path):
    from framefold.data.synthetic.write_shards import synth

    synth(str(tmp_path), videos=3, frames=[16, 18], seed=2, crf=0)
    read = next(iter(ShardStream(str(tmp_path), 3, shuffle=False)))
    made = next(iter(SyntheticStream(Recipe((16, 18), seed=2), 3, 3)))
    for a, b in zip(read.samples, made.samples, strict=True):
        assert a.key == b.key and a.frames.equal(b.frames) and a.times.equal(b.times) and a.questions == b.questions


def test_a_batch_is_opaque_to_lightning():
    from lightning_utilities.core.apply_func import apply_to_collection
    from torch import Tensor

    batch = Batch(())
    assert apply_to_collection(batch, Tensor, lambda t: t.float()) is batch
