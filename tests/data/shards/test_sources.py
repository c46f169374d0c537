"""What may be named as shards: folders, globs, brace lists, servers, commands; with and without an index; hostile."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
import time
from functools import partial

import psutil
import pytest

from framefold.data.loading.loader import ResumableLoader
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards import sources
from framefold.data.shards.check import check_shards
from framefold.data.shards.sources import index, resolve_shards
from framefold.errors import DataError
from framefold.training.datamodule import VideoData

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
NAMES = [f"train-5-{i:08d}" for i in range(22)]


def keys(shards, **settings) -> list[str]:
    stream = ShardStream(shards, 4, **{"shuffle": False, **settings})
    return [sample.key for batch in ResumableLoader(stream) for sample in batch.samples]


@pytest.fixture
def bare(shards, tmp_path):
    """The shards without their index."""
    folder = shutil.copytree(shards, tmp_path / "bare")
    (folder / "index.json").unlink()
    return folder


@pytest.fixture
def server(shards, tmp_path):
    """(URL of a server, its folder), which holds the shards."""
    folder = shutil.copytree(shards, tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}", folder
        http_server.shutdown()


# ---- local ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["{0}", "{0}/*.tar", "{0}/shard-{{000000..000002}}.tar"])
def test_folders_globs_and_brace_lists_name_the_same_samples(shards, form):
    assert keys(form.format(shards)) == NAMES
    assert resolve_shards(form.format(shards)).samples == 22


def test_a_part_of_a_folder_and_several_places_joined(shards, bare):
    assert keys(f"{shards}/shard-000001.tar") == NAMES[8:16]
    assert keys(f"{shards}/shard-000000.tar::{bare}/shard-00000[12].tar") == NAMES


def test_local_files_without_an_index_are_looked_through(bare, shards):
    found, known = resolve_shards(f"{bare}/*.tar"), resolve_shards(str(shards))
    assert [(s.samples, s.lengths) for s in found.shards] == [(s.samples, s.lengths) for s in known.shards]
    assert keys(f"{bare}/*.tar") == NAMES


def test_index_writes_what_synth_would_have_written(bare, shards, capsys):
    with pytest.raises(DataError, match="framefold shards index"):
        resolve_shards(str(bare))
    index(str(bare))
    assert "22 samples in 3 shards" in capsys.readouterr().out
    assert [(s.samples, s.lengths) for s in resolve_shards(str(bare)).shards] == [
        (s.samples, s.lengths) for s in resolve_shards(str(shards)).shards
    ]
    assert keys(str(bare)) == NAMES and check_shards(str(bare)) == 0


def test_what_is_cut_off_is_not_counted_and_a_warning_names_it(bare):
    tar = bare / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.warns(UserWarning, match="shard-000001.tar is damaged behind its sample"):
        assert 14 + 3 <= resolve_shards(f"{bare}/*.tar").samples <= 14 + 5


@pytest.mark.filterwarnings("ignore:.*is damaged behind its sample 0")
@pytest.mark.parametrize("name", ["nowhere", "nowhere/*.tar", "nowhere/a.tar", "no/{a,b}.tar", "", "a{b", "a" * 300])
def test_nothing_there_is_an_error_that_says_how_to_make_some(name, tmp_path):
    with pytest.raises(DataError, match="framefold shards|no sample|no list of shards"):
        resolve_shards(str(tmp_path / name) if name else "")


# ---- servers and commands -------------------------------------------------------------------------------------------


@needs_curl
def test_a_server_with_an_index_beside_the_shards(server):
    url, _ = server
    assert keys(f"{url}/shard-{{000000..000002}}.tar") == NAMES
    assert check_shards(f"{url}/shard-{{000000..000002}}.tar") == 0


@needs_curl
def test_a_server_without_an_index_needs_one_that_was_made_here(server, tmp_path):
    url, folder = server
    (folder / "index.json").unlink()
    named = f"{url}/shard-{{000000..000002}}.tar"
    with pytest.raises(DataError, match="framefold shards index"):
        resolve_shards(named)
    with pytest.raises(DataError, match="give --out"):
        index(named)
    index(named, str(tmp_path / "mine.json"))
    assert keys(resolve_shards(named, str(tmp_path / "mine.json"))) == NAMES
    data = VideoData(shards=named, index=str(tmp_path / "mine.json"), batch_size=4)
    assert data.train_stream().index.samples == 22


@needs_curl
@pytest.mark.filterwarnings("ignore:damaged sample skipped")
@pytest.mark.parametrize("what", ["gone", "cut"])
def test_a_shard_that_a_server_fails_to_give_is_counted_as_damage(server, what):
    url, folder = server
    tar = folder / "shard-000001.tar"
    tar.unlink() if what == "gone" else tar.write_bytes(tar.read_bytes()[:5000])
    named = f"{url}/shard-{{000000..000002}}.tar"
    lost = 8 if what == "gone" else 7
    found = keys(named, max_damaged=0.9)
    assert len(set(found)) in (22 - lost, 22 - lost - 1)
    with pytest.raises(DataError, match="more than max_damaged allows"):
        keys(named)


@needs_curl
def test_a_server_that_falls_silent_is_given_up(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SECONDS", 1)
    monkeypatch.setattr(sources, "RETRIES", 0)
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/shard-000000.tar"
    start = time.monotonic()
    with pytest.raises(DataError, match="index.json cannot be read.*timed out"):
        resolve_shards(url)
    (tmp_path / "index.json").write_text(
        json.dumps({"framefold_shards": 1, "shards": [{"file": "shard-000000.tar", "samples": 8}]})
    )
    with pytest.raises(DataError, match="no sample|damaged"):
        keys(resolve_shards(url, str(tmp_path / "index.json")), max_damaged=1.0)
    assert time.monotonic() - start < 60
    silent.close()


def test_commands_are_read_through_a_pipe_and_leave_no_process_behind(shards, tmp_path):
    named = f"pipe:cat {shards}/shard-{{000000..000002}}.tar"
    with pytest.raises(DataError, match="framefold shards index"):
        resolve_shards(named)
    index(named, str(tmp_path / "mine.json"))
    found = resolve_shards(named, str(tmp_path / "mine.json"))
    assert keys(found) == NAMES
    next(iter(ShardStream(found, 2)))  # and goes away in the middle of a shard
    time.sleep(0.2)
    children = psutil.Process().children(recursive=True)
    assert [child for child in children if child.status() != psutil.STATUS_ZOMBIE and "cat" in child.name()] == []


def test_a_worker_that_gets_nothing_is_not_waited_for_for_ever(shards, tmp_path):
    index(f"pipe:cat {shards}/shard-000000.tar", str(tmp_path / "mine.json"))
    found = resolve_shards("pipe:sleep 60", str(tmp_path / "mine.json"))
    loader = ResumableLoader(ShardStream(found, 4), workers=1, timeout=2)
    with pytest.raises(DataError, match="for 2 seconds.*data.timeout"):
        next(iter(loader))
    for child in psutil.Process().children(recursive=True):
        if "sleep" in child.name():
            child.kill()


# ---- hostile --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {"file": "../secret.tar", "samples": 1},
        {"file": "/etc/passwd", "samples": 1},
        {"file": "pipe:touch owned", "samples": 1},
        {"file": ".hidden.tar", "samples": 1},
        {"file": "a.tar", "samples": -1},
        {"file": "a.tar", "samples": True},
        {"file": "a.tar", "samples": "many"},
        {"file": "a.tar", "samples": 2, "lengths": [1]},
        {"file": "a.tar", "samples": 1, "lengths": ["x"]},
        {"file": 7, "samples": 1},
        {"samples": 1},
        "a.tar",
    ],
)
def test_an_index_cannot_name_what_lies_elsewhere_or_say_nonsense(tmp_path, entry):
    (tmp_path / "index.json").write_text(json.dumps({"framefold_shards": 1, "shards": [entry]}))
    with pytest.raises(DataError, match="index.json is damaged|lists no samples"):
        resolve_shards(str(tmp_path))


def test_an_index_of_another_number_of_shards_is_refused(shards):
    with pytest.raises(DataError, match="describes 3 shards, the call names 2"):
        resolve_shards(f"{shards}/shard-{{000000..000001}}.tar", str(shards / "index.json"))


# ---- token budgets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_token_budget_hold_no_more_and_resume_exactly(shards, workers):
    def make() -> ResumableLoader:
        stream = ShardStream(str(shards), max_tokens=20 * 16 * 3, tokens_per_frame=16, seed=1)
        return ResumableLoader(stream, workers)

    def epoch(loader: ResumableLoader) -> list[tuple[str, ...]]:
        found = []
        for batch in loader:
            lengths = [sample.length for sample in batch.samples]
            assert max(lengths) * len(lengths) * 16 <= 20 * 16 * 3
            found.append(tuple(sample.key for sample in batch.samples))
        return found

    loader = make()
    first, second = epoch(loader), epoch(loader)
    assert sorted(sum(first, ())) == sorted(sum(second, ())) == NAMES and first != second
    assert len(first) == len(second) == len(loader) < 11
    after = make()
    after.load_state_dict({**loader.state_dict(), "epoch": 0, "done": 3})
    assert epoch(after) == first[3:] and epoch(after) == second


def test_a_token_budget_needs_lengths_and_the_tokens_of_a_frame(shards, tmp_path):
    with pytest.raises(DataError, match="tokens_per_frame"):
        ShardStream(str(shards), max_tokens=1000)
    folder = shutil.copytree(shards, tmp_path / "old")
    content = json.loads((folder / "index.json").read_text())
    for entry in content["shards"]:
        del entry["lengths"]
    (folder / "index.json").write_text(json.dumps(content))
    assert keys(str(folder)) == NAMES
    with pytest.raises(DataError, match="framefold shards index"):
        ShardStream(str(folder), max_tokens=1000, tokens_per_frame=16)
    with pytest.raises(DataError, match="more than max_tokens = 100"):
        ShardStream(str(shards), max_tokens=100, tokens_per_frame=16)
    with pytest.raises(DataError, match="on the fly"):
        VideoData(max_tokens=100)


# ---- other numbers of ranks and workers -----------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after", "workers"), [(2, 1, 0), (1, 2, 0), (4, 2, 2), (2, 4, 1)])
def test_a_run_goes_on_in_the_middle_of_an_epoch_on_other_numbers_of_ranks_and_workers(shards, before, after, workers):
    def loaders(world: int, workers: int, readers: int) -> list[ResumableLoader]:
        common = dict(batch_size=4 // world, seed=1, world=world, readers=readers)
        return [ResumableLoader(ShardStream(str(shards), rank=r, **common), workers) for r in range(world)]

    def steps(ranks: list[ResumableLoader]) -> list[list[str]]:
        return [[sample.key for batch in step for sample in batch.samples] for step in zip(*ranks, strict=True)]

    whole = steps(loaders(before, 0, 2))
    running = loaders(before, 0, 2)
    for iterator in [iter(loader) for loader in running]:
        next(iterator), next(iterator)
    going_on = loaders(after, workers, 1)
    for loader in going_on:
        loader.load_state_dict(running[0].state_dict())  # rank 0's, as Lightning keeps it
    rest = steps(going_on)
    assert [sorted(set(step)) for step in rest] == [sorted(set(step)) for step in whole[2:]]
    assert len({key for step in whole[:2] + rest for key in step}) == 22
