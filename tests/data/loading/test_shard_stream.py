"""Reading shards: every sample once, equal steps on all ranks, exact resume, damage counted."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import shutil
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from torch.utils.data import _utils

from framefold.data.loading import loader as loader_module
from framefold.data.loading.loader import Batch, ResumableLoader, SampleStream
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import DataError

NAMES = [f"train-5-{i:08d}" for i in range(22)]


class Positions(SampleStream):
    """Positions in the sequence instead of samples: the arithmetic of lanes, ranks, workers and resuming."""

    def partial_batches(self, epoch, positions, sizes, numbers):
        ends = list(itertools.accumulate(sizes))
        for number in numbers:
            batch = positions[ends[number] - sizes[number] : ends[number]]
            yield [(epoch, position % self.layout.units) for position in batch[self.share.part(batch)]], ()


class SimulatedLoader(ResumableLoader):
    """Delivers what some worker processes would deliver, without starting them; torch takes turns between workers."""

    simulated = 2

    def _get_iterator(self) -> Iterator[Batch]:
        streams = [iter(copy.copy(self.stream)) for _ in range(self.simulated)]

        def batches() -> Iterator[Batch]:
            for worker in itertools.cycle(range(self.simulated)):
                with pytest.MonkeyPatch.context() as patch:
                    info = SimpleNamespace(num_workers=self.simulated, id=worker)
                    patch.setattr(loader_module, "get_worker_info", lambda: info)  # noqa: B023
                    batch = next(streams[worker], None)
                if batch is None:
                    return
                yield batch

        return batches()


def loader_of(stream: SampleStream, workers: int, **more) -> ResumableLoader:
    return SimulatedLoader(stream, **more) if workers else ResumableLoader(stream, **more)


def epochs(loader: ResumableLoader, count: int = 2) -> list[list]:
    return [[batch.samples for batch in loader] for _ in range(count)]


def keys(loader: ResumableLoader) -> list[tuple[str, ...]]:
    return [tuple(sample.key for sample in batch.samples) for batch in loader]


def take(loader: ResumableLoader, count: int) -> list:
    taken: list = []
    while len(taken) < count:
        taken += itertools.islice((batch.samples for batch in loader), count - len(taken))
    return taken


def test_every_sample_is_read_once_an_epoch():
    for samples, batch, workers in itertools.product([3, 10, 22, 24], [1, 4, 8], [0, 2]):
        loader = loader_of(Positions(samples, batch), workers)
        for epoch, batches in enumerate(epochs(loader)):
            assert len(batches) == len(loader) == -(-samples // batch)
            assert sorted(itertools.chain(*batches)) == [(epoch, i) for i in range(samples)], (samples, batch, workers)


def test_ranks_take_equal_numbers_of_steps_and_miss_nothing():
    for samples, world in [(24, 2), (22, 3), (22, 5), (3, 4), (1, 4)]:
        ranks = [epochs(ResumableLoader(Positions(samples, 4, rank=r, world=world)), 1)[0] for r in range(world)]
        assert len({len(batches) for batches in ranks}) == 1
        seen = [position for batches in ranks for batch in batches for _, position in batch]
        assert set(seen) == set(range(samples)), (samples, world)
        assert len(seen) == max(samples, world)  # with fewer samples than ranks, some are read twice


def test_resuming_is_exact_at_any_batch():
    for done, workers in itertools.product(range(13), [0, 2]):
        complete = list(itertools.chain(*epochs(loader_of(Positions(22, 4), workers), 3)))
        before, after = (loader_of(Positions(22, 4), workers) for _ in range(2))
        assert take(before, done) == complete[:done]
        after.load_state_dict(before.state_dict())
        rest = list(itertools.chain(*epochs(after, 3)))
        assert rest[: len(complete) - done] == complete[done:], (done, workers)


def test_worker_processes_deliver_the_same_batches_and_resume():
    complete = list(itertools.chain(*epochs(ResumableLoader(Positions(22, 4)), 2)))
    loader = ResumableLoader(Positions(22, 4), workers=2)
    assert take(loader, 4) == complete[:4]
    after = ResumableLoader(Positions(22, 4), workers=1)
    after.load_state_dict(loader.state_dict())
    assert take(after, 8) == complete[4:12]


def test_unused_iterators_change_nothing():
    loader = ResumableLoader(Positions(22, 4))
    iter(loader)
    first = epochs(loader, 1)
    fresh = ResumableLoader(Positions(22, 4))
    assert first == epochs(fresh, 1)
    loader.load_state_dict({**fresh.state_dict(), "epoch": 1, "done": 2})
    iter(loader)
    assert next(iter(loader)).samples == epochs(fresh, 1)[0][2]


def test_truncated_epoch_is_not_continued():
    loader = ResumableLoader(Positions(22, 4))
    next(iter(loader))
    assert next(iter(loader)).samples[0] == (1, 0)


def test_changed_layout_resumes_at_the_next_epoch():
    loader = ResumableLoader(Positions(22, 4))
    next(iter(loader))
    for other, reason in (
        (ResumableLoader(Positions(22, 5)), "batch_size 4 on 1 ranks would keep it"),
        (ResumableLoader(Positions(22, 4, world=2)), "batch_size 2 on 2 ranks would keep it"),
        (ResumableLoader(Positions(22, 4, seed=1)), "layout changed"),
        (ResumableLoader(Positions(23, 4)), "layout changed"),
    ):
        with pytest.warns(UserWarning, match=f"{reason}.*next epoch"):
            other.load_state_dict(loader.state_dict())
        assert next(iter(other)).samples[0] == (1, 0)


def test_validation_always_starts_with_the_first_epoch():
    loader = ResumableLoader(Positions(22, 4), restart=True)
    next(iter(loader))
    first, second = epochs(loader)
    assert first == second


# ---- shards ---------------------------------------------------------------------------------------------------------


def resumed(loader: ResumableLoader, stream: SampleStream, workers: int, done: int) -> ResumableLoader:
    """A loader that continues after some batches, with the settings of another one."""
    after, steps = loader_of(stream, workers), len(loader)
    after.load_state_dict({**loader.state_dict(), "epoch": done // steps, "done": done % steps})
    return after


def test_shards_are_shuffled_in_every_epoch_and_resume_exactly(shards):
    for workers in (0, 2):
        loader = loader_of(ShardStream(str(shards), 4, seed=1), workers)
        first, second = keys(loader), keys(loader)
        assert sorted(sum(first, ())) == sorted(sum(second, ())) == NAMES
        assert first != second
        for done in (1, 3, 6, 8):
            after = resumed(loader, ShardStream(str(shards), 4, seed=1), workers, done)
            assert keys(after) == (first + second)[done : done + 6 - done % 6], (workers, done)


def test_order_without_shuffling_is_that_of_the_files(shards):
    loader = ResumableLoader(ShardStream(str(shards), 4, shuffle=False))
    assert sum(keys(loader), ()) == tuple(NAMES)


def test_more_ranks_than_shards(shards):
    ranks = [keys(ResumableLoader(ShardStream(str(shards), 2, rank=rank, world=7))) for rank in range(7)]
    assert {len(batches) for batches in ranks} == {2}
    assert len({key for batches in ranks for batch in batches for key in batch}) == 22


def test_samples_have_what_training_needs(shards):
    sample = next(iter(ShardStream(str(shards), 4))).samples[0]
    assert sample.frames.shape[1:] == (64, 64, 3) and str(sample.frames.dtype) == "torch.uint8"
    assert len(sample.times) == len(sample.frames) and sample.questions[0].answer in sample.questions[0].choices


def test_run_continues_within_an_epoch_on_other_numbers_of_ranks_and_workers(shards):
    def loaders(world: int, workers: int, readers: int) -> list[ResumableLoader]:
        common = dict(batch_size=4 // world, seed=1, world=world, readers=readers)
        return [loader_of(ShardStream(str(shards), rank=r, **common), workers) for r in range(world)]

    def steps(ranks: list[ResumableLoader]) -> list[list[str]]:
        return [[sample.key for batch in step for sample in batch.samples] for step in zip(*ranks, strict=True)]

    for before, after, workers in [(2, 1, 0), (1, 2, 0), (4, 2, 2), (2, 4, 0)]:
        complete = steps(loaders(before, 0, 2))
        running = loaders(before, 0, 2)
        for iterator in [iter(loader) for loader in running]:
            next(iterator), next(iterator)
        continued = loaders(after, workers, 1)
        for loader in continued:
            loader.load_state_dict(running[0].state_dict())  # Lightning stores the state of rank 0
        rest = steps(continued)
        assert [sorted(set(step)) for step in rest] == [sorted(set(step)) for step in complete[2:]], (before, after)
        assert len({key for step in complete[:2] + rest for key in step}) == 22


# ---- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards_copy(shards, tmp_path):
    return shutil.copytree(shards, tmp_path / "copy")


def damage(folder, kind):
    """Damage shard 1 (samples 8 to 15) and return the number of lost samples."""
    shard = folder / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    if kind == "mp4":
        at = data.index(b"ftyp")
        data[at : at + 2000] = bytes(2000)
        shard.write_bytes(data)
        return 1
    if kind == "json":
        at = data.index(b'{"schema"')
        data[at : at + 3] = b"???"
        shard.write_bytes(data)
        return 1
    if kind == "truncated":
        shard.write_bytes(data[: len(data) // 2])
        return 4
    if kind == "garbage":
        shard.write_bytes(bytes(range(256)) * 40)
        return 8
    shard.unlink()
    return 8


@pytest.mark.parametrize("kind", ["mp4", "json", "truncated", "garbage", "missing"])
def test_damage_is_skipped_and_counted_without_a_change_of_steps(shards_copy, kind):
    lost = damage(shards_copy, kind)
    for workers in (0, 2):
        loader = loader_of(ShardStream(str(shards_copy), 4, seed=1, max_damaged=0.9), workers)
        with pytest.warns(UserWarning, match="damaged sample skipped"):
            first = keys(loader)
        assert len(first) == len(loader) == 6 and all(first)  # a batch that lost all samples receives another one
        assert abs(loader.damaged - lost) <= (kind == "truncated")  # the cut may be within a sample or between two
        assert len(set(sum(first, ()))) == 22 - loader.damaged
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            second = keys(loader)
            for done in (1, 5, 7):
                after = resumed(loader, ShardStream(str(shards_copy), 4, seed=1, max_damaged=0.9), workers, done)
                assert keys(after) == (first + second)[done : done + 6 - done % 6], (workers, done)


def test_too_much_damage_is_an_error(shards_copy):
    damage(shards_copy, "garbage")
    with (
        pytest.warns(UserWarning, match="damaged sample skipped"),
        pytest.raises(DataError, match="samples of .* are damaged in this epoch, more than max_damaged allows"),
    ):
        keys(ResumableLoader(ShardStream(str(shards_copy), 4)))


def test_reader_with_only_damaged_samples_receives_one_of_another(shards_copy):
    (shards_copy / "shard-000001.tar").unlink()
    streams = [ShardStream(str(shards_copy), 4, shuffle=False, max_damaged=1.0, rank=r, world=3) for r in range(3)]
    with pytest.warns(UserWarning, match="damaged sample skipped"):
        ranks = [keys(ResumableLoader(stream)) for stream in streams]
    assert {len(batches) for batches in ranks} == {2} and all(batch for batches in ranks for batch in batches)
    alone = ResumableLoader(ShardStream(str(shards_copy), 1, shuffle=False, max_damaged=1.0, rank=8, world=22))
    with pytest.warns(UserWarning, match="shard-000001.tar is missing"):
        assert keys(alone) == [("train-5-00000000",)]


def test_error_in_a_worker_process_is_one_line_even_if_all_damage_is_permitted(shards_copy, monkeypatch):
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.2)  # torch waits this long for the worker to end
    for shard in shards_copy.glob("*.tar"):
        shard.write_bytes(b"")
    with pytest.raises(DataError, match="no sample") as caught:
        keys(ResumableLoader(ShardStream(str(shards_copy), 4, max_damaged=1.0), workers=1))
    message = str(caught.value)
    del caught
    gc.collect()  # ends the worker now, not within the next test
    assert "Traceback" not in message and "\n" not in message


def test_settings_out_of_range_are_data_errors(shards, tmp_path):
    for wrong in (dict(batch_size=0), dict(max_damaged=2.0), dict(buffer=0)):
        with pytest.raises(DataError):
            ShardStream(str(shards), **{"batch_size": 4, **wrong})
            pytest.fail(f"{wrong} is accepted")
    with pytest.raises(DataError, match="framefold shards synth"):
        ShardStream(str(tmp_path / "nowhere"), 4)


# ---- token budgets --------------------------------------------------------------------------------------------------


def test_batches_stay_within_a_token_budget_and_resume_exactly(shards):
    def stream() -> ShardStream:
        return ShardStream(str(shards), max_tokens=20 * 16 * 3, tokens_per_frame=16, seed=1)

    def epoch(loader: ResumableLoader) -> list[tuple[str, ...]]:
        found = []
        for batch in loader:
            lengths = [sample.length for sample in batch.samples]
            assert max(lengths) * len(lengths) * 16 <= 20 * 16 * 3
            found.append(tuple(sample.key for sample in batch.samples))
        return found

    for workers in (0, 2):
        loader = loader_of(stream(), workers)
        first, second = epoch(loader), epoch(loader)
        assert sorted(sum(first, ())) == sorted(sum(second, ())) == NAMES and first != second
        assert len(first) == len(second) == len(loader) < 11
        after = resumed(loader, stream(), workers, 3)
        assert epoch(after) == first[3:] and epoch(after) == second, workers


def test_token_budget_requires_lengths_and_the_tokens_of_a_frame(shards, tmp_path):
    with pytest.raises(DataError, match="tokens_per_frame"):
        ShardStream(str(shards), max_tokens=1000)
    folder = shutil.copytree(shards, tmp_path / "old")
    content = json.loads((folder / "index.json").read_text())
    for entry in content["shards"]:
        del entry["lengths"]
    (folder / "index.json").write_text(json.dumps(content))
    assert sum(keys(ResumableLoader(ShardStream(str(folder), 4, shuffle=False))), ()) == tuple(NAMES)
    with pytest.raises(DataError, match="framefold shards index"):
        ShardStream(str(folder), max_tokens=1000, tokens_per_frame=16)
    with pytest.raises(DataError, match="more than max_tokens = 100"):
        ShardStream(str(shards), max_tokens=100, tokens_per_frame=16)


# ---- synthetic videos -----------------------------------------------------------------------------------------------


def test_synthetic_epochs_are_new_and_validation_is_not():
    recipe = Recipe((16, 18))
    fresh = ResumableLoader(SyntheticStream(recipe, 6, 4))
    assert set(sum(keys(fresh), ())).isdisjoint(sum(keys(fresh), ()))
    fixed = ResumableLoader(SyntheticStream(recipe, 6, 4, fresh=False))
    assert keys(fixed) == keys(fixed)


def test_generated_samples_equal_those_of_lossless_shards(tmp_path):
    from framefold.data.synthetic.write_shards import synth

    synth(str(tmp_path), videos=3, frames=[16, 18], seed=2, crf=0)
    stored = next(iter(ShardStream(str(tmp_path), 3, shuffle=False)))
    generated = next(iter(SyntheticStream(Recipe((16, 18), seed=2), 3, 3)))
    for a, b in zip(stored.samples, generated.samples, strict=True):
        assert a.key == b.key and a.frames.equal(b.frames) and a.times.equal(b.times) and a.questions == b.questions


def test_batch_is_opaque_to_lightning():
    from lightning_utilities.core.apply_func import apply_to_collection
    from torch import Tensor

    batch = Batch(())
    assert apply_to_collection(batch, Tensor, lambda t: t.float()) is batch
