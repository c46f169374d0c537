"""What can be named as shards: folders, globs, brace lists, servers, commands; with and without an index."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import os
import re
import shutil
import socket
import tarfile
import threading
import time
import warnings
from functools import partial

import psutil
import pytest
from torch.utils.data import _utils

from framefold.data.loading.loader import ResumableLoader
from framefold.data.loading.shard_stream import ShardStream
from framefold.data.shards import sources
from framefold.data.shards.check import check_shards
from framefold.data.shards.sources import index_shards, resolve_shards
from framefold.errors import DataError

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
    """URL of a server with the shards, and its folder."""
    folder = shutil.copytree(shards, tmp_path / "served")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as http_server:
        threading.Thread(target=http_server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_address[1]}", folder
        http_server.shutdown()


# ---- local ----------------------------------------------------------------------------------------------------------


def test_folders_globs_and_brace_lists_name_the_same_samples(shards):
    for form in (f"{shards}", f"{shards}/*.tar", f"{shards}/shard-{{000000..000002}}.tar"):
        assert keys(form) == NAMES, form
        assert resolve_shards(form).samples == 22


def test_part_of_a_folder_and_several_places_joined(shards, bare):
    assert keys(f"{shards}/shard-000001.tar") == NAMES[8:16]
    assert keys(f"{shards}/shard-000000.tar::{bare}/shard-00000[12].tar") == NAMES


def test_local_files_without_an_index_are_scanned(bare, shards):
    scanned, indexed = resolve_shards(f"{bare}/*.tar"), resolve_shards(str(shards))
    assert [(s.samples, s.lengths) for s in scanned.shards] == [(s.samples, s.lengths) for s in indexed.shards]
    assert keys(f"{bare}/*.tar") == NAMES


def test_index_shards_writes_what_synth_would_have_written(bare, shards, capsys):
    with pytest.raises(DataError, match="framefold shards index"):
        resolve_shards(str(bare))
    index_shards(str(bare))
    assert "22 samples in 3 shards" in capsys.readouterr().out
    assert [(s.samples, s.lengths) for s in resolve_shards(str(bare)).shards] == [
        (s.samples, s.lengths) for s in resolve_shards(str(shards)).shards
    ]
    assert keys(str(bare)) == NAMES and check_shards(str(bare)) == 0


def test_truncated_samples_are_not_counted_and_a_warning_names_the_shard(bare):
    tar = bare / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.warns(UserWarning, match="shard-000001.tar is damaged after sample"):
        assert 14 + 3 <= resolve_shards(f"{bare}/*.tar").samples <= 14 + 5


@pytest.mark.filterwarnings("ignore:.*is damaged after sample 0")
def test_missing_shards_are_an_error_with_a_remedy(tmp_path):
    for name in ("nowhere", "nowhere/*.tar", "nowhere/a.tar", "no/{a,b}.tar", "", "a{b", "a" * 300):
        with pytest.raises(DataError, match="framefold shards|no sample|does not name shards"):
            resolve_shards(str(tmp_path / name) if name else "")
            pytest.fail(f"{name!r} is accepted")


# ---- names ----------------------------------------------------------------------------------------------------------

ODD_FOLDERS = (
    "exp-12:30",
    "a::b",
    "http:x",
    "pipe:cat",
    "exp[1]",
    "a{b,c}d",
    "a*?",
    "file:x",
    "s3:x",
    "::",
    "-",
    "a b#?",
)


def test_folders_and_files_with_any_name_are_read(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ODD_FOLDERS:
        shutil.copytree(shards, folder)
        (tmp_path / folder / "index.json").unlink()
        os.rename(f"{folder}/shard-000002.tar", f"{folder}/shard-2[0]: a::b.tar")
        index_shards(folder)
        forms = [folder, f"{tmp_path}/{folder}", f"{folder}/*.tar", f"{folder}::{folder}/shard-00000[1].tar"]
        forms += [f"{folder}/shard-{{000000,000001}}.tar::{folder}/shard-2[0]: a::b.tar"]
        for form in forms:
            again = [*NAMES, *NAMES[8:16]] if form == forms[3] else NAMES
            assert keys(form) == again, form
        assert keys(f"{folder}/shard-2[0]: a::b.tar") == NAMES[16:]
    assert check_shards(ODD_FOLDERS[0]) == 0


def test_existing_file_wins_over_pattern_command_and_joined_names(shards, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["s[01].tar", "s0.tar", "s{0,1}.tar", "pipe:touch owned.tar", "a.tar::b.tar"]):
        shutil.copy(shards / f"shard-{number % 3:06d}.tar", name)
        assert keys(name) == NAMES[8 * (number % 3) : 8 * (number % 3) + 8], name
    assert sorted(os.listdir()) == sorted(["s[01].tar", "s0.tar", "s{0,1}.tar", "pipe:touch owned.tar", "a.tar::b.tar"])


def test_index_cannot_make_a_file_name_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"")
    for name in ("pipe:touch owned", "pipe:touch owned.tar"):
        (tmp_path / "index.json").write_text(
            json.dumps(
                {"framefold_shards": 1, "shards": [{"file": name, "samples": 1}, {"file": "a.tar", "samples": 1}]}
            )
        )
        for form in ("a.tar", ".", str(tmp_path)):
            with pytest.raises(DataError):
                resolve_shards(form)
                pytest.fail(name)
    assert not (tmp_path / "owned").exists() and not (tmp_path / "owned.tar").exists()


# ---- contents of tar files ------------------------------------------------------------------------------------------


def write_tar(path, *names, content=b'{"schema": 2}'):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def test_index_warns_of_files_that_it_cannot_use_with_counts_and_the_rule(tmp_path):
    dotted = [f"clip.v2.{number:04d}.{kind}" for number in range(6) for kind in ("json", "mp4")]
    cases = {
        "dotted": (dotted, "more than one dot in their names: 12 for 6 samples, .*file name up to the first dot.*"
                   "clip.v2.0000.json to clip-v2-0000.json"),
        "folder": (["v1.2/a.b.mp4", "v1.2/a.b.json"], "in their names: 2 for 1 samples, .* a.b.json to a-b.json"),
        "beside": (["a.mp4", "a.json", "a.v2.mp4", "a.v2.json"], "in their names: 2 for 1 samples, .* to a-v2.json"),
        "hidden": (["a.mp4", "a.json", ".b.mp4", ".b.json", "._a.mp4", ".DS_Store"], r"hidden files: 2, .*\.b\.mp4"),
        "twice": (["a.mp4", "a.json", "a.mp4", "a.MP4"], r"name of another file of their sample: 2, .*a\.mp4"),
        "lacking": (["a.mp4", "b.json", "c.mp4", "c.json"], r"lack a file: 2 of 3 \(first: a has no json\)"),
        "foreign": (["a.json", "a.mkv"], r"lack a file: 1 of 1 \(first: a has no mp4\)"),
        "again": (["a.mp4", "a.json", "b.mp4", "b.json", "a.mp4", "a.json"], r"used again: 1 \(first: a\)"),
        "apart": (["a.json", "b.json", "a.mp4", "b.mp4"], "used again: 2"),
    }  # fmt: skip
    for name, (files, text) in cases.items():
        write_tar(tmp_path / name / "x.tar", *files)
        for scan in (index_shards, lambda folder: resolve_shards(f"{folder}/x.tar")):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scan(str(tmp_path / name))
            (tmp_path / name / "index.json").unlink(missing_ok=True)
            assert any(re.search(text, str(w.message)) for w in caught), (name, [str(w.message) for w in caught])


def test_upper_case_extensions_and_folders_in_a_tar_are_fine(tmp_path, recwarn):
    write_tar(tmp_path / "x.tar", "A.MP4", "A.JSON", "sub/b.mp4", "sub/b.json", "./c.mp4", "./c.json", "d.mp4",
              "d.json", "d.depth.mp4", "d.meta.json", "d.txt", "._d.mp4", ".DS_Store")  # fmt: skip
    index_shards(str(tmp_path))
    assert resolve_shards(str(tmp_path)).samples == 4 and not recwarn.list


def test_one_damaged_json_does_not_cost_a_shard_its_lengths(shards, tmp_path):
    folder = shutil.copytree(shards, tmp_path / "copy")
    (folder / "index.json").unlink()
    tar = folder / "shard-000001.tar"
    data = tar.read_bytes()
    tar.write_bytes(data.replace(b'{"schema"', b'{"???ema"', 1).replace(b'"times"', b'"tim??"', 1))
    index_shards(str(folder))
    lengths = resolve_shards(str(folder)).shards[1].lengths
    assert len(lengths) == 8 and lengths[0] == 1 and lengths[1:] == resolve_shards(str(shards)).shards[1].lengths[1:]


def test_folder_without_shards_says_what_it_holds(tmp_path):
    for names, text in (
        (["a.tar.gz", "b.tar.gz", "c.txt"], "holds 2 .tar.gz, 1 .txt.*gunzip.*shards index --shards '.*tar.gz'"),
        (["a.tgz"], "holds 1 .tgz: decompress"),
        (["a.mp4", "b.mp4", "a.json"], "holds 2 .mp4, 1 .json: shards are tar files"),
        (["A.TAR"], "holds 1 .TAR: shards are tar files"),
        (["sub/a.tar"], "holds 1 folder of .tar: shards are tar files"),
    ):
        folder = tmp_path / re.sub(r"\W", "", text)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"")
        for call in (resolve_shards, index_shards):
            for form in (str(folder), f"{folder}/*.tar"):
                with pytest.raises(DataError, match=text) as caught:
                    call(form)
                    pytest.fail(f"{form} is accepted")
                assert "synth" not in str(caught.value)


def test_compressed_shards_are_read_as_they_are(shards, tmp_path):
    for shard in shards.glob("*.tar"):
        (tmp_path / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes(), 1))
    index_shards(f"{tmp_path}/*.tar.gz")
    assert keys(str(tmp_path)) == NAMES


# ---- servers and commands -------------------------------------------------------------------------------------------


@needs_curl
def test_server_with_an_index_next_to_the_shards(server):
    url, _ = server
    assert keys(f"{url}/shard-{{000000..000002}}.tar") == NAMES
    assert check_shards(f"{url}/shard-{{000000..000002}}.tar") == 0


@needs_curl
def test_server_without_an_index_requires_a_local_one(server, tmp_path):
    url, folder = server
    (folder / "index.json").unlink()
    shards = f"{url}/shard-{{000000..000002}}.tar"
    with pytest.raises(DataError, match="framefold shards index"):
        resolve_shards(shards)
    with pytest.raises(DataError, match="give --out"):
        index_shards(shards)
    index_shards(shards, str(tmp_path / "mine.json"))
    assert keys(resolve_shards(shards, str(tmp_path / "mine.json"))) == NAMES


@needs_curl
@pytest.mark.filterwarnings("ignore:damaged sample skipped")
def test_shards_that_a_server_does_not_deliver_count_as_damage(server):
    url, folder = server
    tar, shards = folder / "shard-000001.tar", f"{url}/shard-{{000000..000002}}.tar"
    for case, lost in (("cut", 7), ("gone", 8)):
        tar.unlink() if case == "gone" else tar.write_bytes(tar.read_bytes()[:5000])
        assert len(set(keys(shards, max_damaged=0.9))) in (22 - lost, 22 - lost - 1), case
        with pytest.raises(DataError, match="more than max_damaged allows"):
            keys(shards)


@needs_curl
def test_silent_server_is_abandoned(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(sources, "RETRIES", 0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/shard-000000.tar"
        with pytest.raises(DataError, match="index.json cannot be read.*timed out"):
            resolve_shards(url)
        (tmp_path / "index.json").write_text(
            json.dumps({"framefold_shards": 1, "shards": [{"file": "shard-000000.tar", "samples": 8}]})
        )
        with pytest.raises(DataError, match="no sample|damaged"):
            keys(resolve_shards(url, str(tmp_path / "index.json")), max_damaged=1.0)


def test_commands_are_read_through_a_pipe_and_leave_no_process_behind(shards, tmp_path):
    named = f"pipe:cat {shards}/shard-{{000000..000002}}.tar"
    with pytest.raises(DataError, match="framefold shards index"):
        resolve_shards(named)
    index_shards(named, str(tmp_path / "mine.json"))
    found = resolve_shards(named, str(tmp_path / "mine.json"))
    assert keys(found) == NAMES
    next(iter(ShardStream(found, 2)))  # abandons its shard in the middle
    end = time.monotonic() + 60
    while running := [child for child in children("cat") if child.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < end, running
        time.sleep(0.02)


def children(name: str) -> list[psutil.Process]:
    """Processes with a name that this one has started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            found += [child] if name in child.name() else []
        except psutil.NoSuchProcess:
            continue
    return found


def test_worker_that_receives_nothing_is_abandoned(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # torch waits this long for a worker to end
    index_shards(f"pipe:cat {shards}/shard-000000.tar", str(tmp_path / "mine.json"))
    found = resolve_shards("pipe:sleep 600", str(tmp_path / "mine.json"))
    loader = ResumableLoader(ShardStream(found, 4), workers=1, timeout=1)
    with pytest.raises(DataError, match="for 1 seconds.*data.timeout"):
        next(iter(loader))
    for child in children("sleep"):
        child.kill()


# ---- bad indexes ----------------------------------------------------------------------------------------------------

BAD_ENTRIES = [
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
]


def test_index_cannot_name_files_elsewhere_or_wrong_numbers(tmp_path):
    for entry in BAD_ENTRIES:
        (tmp_path / "index.json").write_text(json.dumps({"framefold_shards": 1, "shards": [entry]}))
        with pytest.raises(DataError, match="index.json is damaged|lists no samples"):
            resolve_shards(str(tmp_path))
            pytest.fail(f"{entry} is accepted")


def test_index_of_another_number_of_shards_is_refused(shards):
    with pytest.raises(DataError, match="describes 3 shards, but the call names 2"):
        resolve_shards(f"{shards}/shard-{{000000..000001}}.tar", str(shards / "index.json"))
