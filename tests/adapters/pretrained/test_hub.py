"""Adapters on the Hub: the real client against a Hub on this machine, with faults on request.

Every error of the Hub is one line that states what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save

from framefold.adapters.pretrained.hub import locate_adapter
from framefold.errors import AdapterFileError, ConfigError
from tests.support.cases import case
from tests.support.hub.hub_client import Client, ClientError
from tests.support.hub.loopback_hub import Hub
from tests.support.paths import ASSETS, TINYHOST

V1 = ASSETS / "adapters_v1"
NEVER = b"raise SystemExit('code of a repository was run')"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub().running() as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def _client(hub: Hub, home: Path) -> Iterator[Client]:
    client = Client(hub, home)
    yield client
    client.kill()


@pytest.fixture
def client(_client: Client, hub: Hub) -> Client:
    hub.faults.clear()
    hub.log.clear()
    _client("setting", token="hf_write", limit=60)
    return _client


def adapter(folder: Path | None = None, **more: bytes) -> dict[str, bytes]:
    """The files of an adapter folder, and further ones."""
    files = {path: path.read_bytes() for path in (folder or V1 / "fila").rglob("*") if path.is_file()}
    return {str(path.relative_to(folder or V1 / "fila")): data for path, data in files.items()} | more


def downloaded(hub: Hub) -> list[str]:
    """Names of the downloaded files."""
    return sorted(
        path.rpartition("/resolve/")[2].partition("/")[2]
        for verb, path in hub.log
        if verb == "GET" and "/resolve/" in path
    )


def test_push_is_one_commit_with_a_card_and_a_tag(client: Client, hub: Hub) -> None:
    done = client("push", 1, "me/first", tag="v1")
    repository = hub.repositories["me/first"]
    assert sorted(repository.files) == [".gitattributes", "README.md", "config.json", "model.safetensors"]
    assert len(repository.commits) == 2 and repository.tags == {"v1": repository.branches["main"]}
    assert done["url"].endswith(repository.branches["main"]) and not repository.private
    data = yaml.safe_load(repository.files["README.md"].decode().split("---\n")[1])
    assert data["library_name"] == "framefold" and "compressor:fila" in data["tags"]
    assert 'framefold.load("me/first", revision="v1")' in repository.files["README.md"].decode()
    assert client("load", "me/first")["digest"] == done["digest"]
    assert client("from_pretrained", "fila", "me/first", revision="v1") == done["digest"]
    assert "not a Uniform" in client.refuses("from_pretrained", "uniform", "me/first", kind="AdapterFileError")


def test_a_revision_is_a_tag_a_branch_or_a_commit(client: Client, hub: Hub) -> None:
    digests = [client("push", seed, "me/revised", tag=f"v{seed}")["digest"] for seed in (1, 2, 3)]
    repository = hub.repositories["me/revised"]
    repository.branches["next"] = repository.tags["v2"]
    assert len(set(digests)) == 3
    for revision, digest in (("v1", 0), ("v3", 2), ("next", 1), (repository.tags["v2"], 1), (None, 2)):
        assert client("load", "me/revised", revision=revision)["digest"] == digests[digest]
    assert client("load", "me/revised@v2")["digest"] == digests[1]
    assert "no revision 'v9'" in client.refuses("load", "me/revised@v9")
    assert "give only one" in client.refuses("load", "me/revised@v1", revision="v2", kind="ConfigError")


def test_what_is_cached_is_not_downloaded_again(client: Client, hub: Hub) -> None:
    client("push", 4, "me/cached")
    client("load", "me/cached")
    assert downloaded(hub) == ["config.json", "model.safetensors"]
    hub.log.clear()
    client("load", "me/cached")
    assert downloaded(hub) == []


def test_without_a_connection_the_cached_adapter_is_used(client: Client, hub: Hub, home: Path) -> None:
    digest = client("push", 5, "me/offline", tag="v1")["digest"]
    client("load", "me/offline")
    client("load", "me/offline@v1")
    hub.put("me/never", adapter())
    hub.faults["busy"] = 1000
    busy = client("load", "me/offline")
    assert busy["digest"] == digest and "cannot be reached" in busy["warnings"][0]
    assert "is not completely in the cache" in client.refuses("load", "me/never")
    hub.faults.clear()
    hub.log.clear()
    offline = Client(hub, home, HF_HUB_OFFLINE="1")
    try:
        assert offline("load", "me/offline") == {"digest": digest, "budget": 0.2, "warnings": []}
        assert offline("load", "me/offline", revision="v1")["digest"] == digest
        assert "is not completely in the cache" in offline.refuses("load", "me/never")
        assert "there is no connection" in offline.refuses("push", 5, "me/offline")
    finally:
        offline.kill()
    assert not hub.log
    unreachable = Client(hub, home, HF_ENDPOINT="http://127.0.0.1:9")  # no server listens there
    try:
        assert unreachable("load", "me/offline")["digest"] == digest
        assert "is not completely in the cache" in unreachable.refuses("load", "me/never")
        assert "was lost" in unreachable.refuses("push", 5, "me/offline")
    finally:
        unreachable.kill()


def test_a_private_adapter_is_for_its_owner(client: Client, hub: Hub) -> None:
    digest = client("push", 6, "me/secret", private=True)["digest"]
    assert hub.repositories["me/secret"].private
    assert client("load", "me/secret")["digest"] == digest
    hub.put("me/secret2", adapter(), private=True)
    for token in ("hf_other", None):
        client("setting", token=token)
        text = client.refuses("load", "me/secret2")
        assert "me/secret2 does not exist" in text and "or it is private" in text and "HF_TOKEN" in text
    client("setting", token="hf_wrong")
    assert "does not accept your login" in client.refuses("load", "me/secret2")


def test_pushing_without_permission_is_refused(client: Client, hub: Hub) -> None:
    for token, repository, text in [
        (None, "me/denied", "log in with 'hf auth login'"),
        ("hf_wrong", "me/denied", "does not accept your login"),
        ("hf_read", "me/denied", "may not push me/denied"),
        ("hf_write", "other/denied", "may not push other/denied"),
    ]:
        with case(token, repository, text):
            client("setting", token=token)
            assert text in client.refuses("push", 1, repository)
            assert repository not in hub.repositories


def test_invalid_names_are_refused_before_anything_is_sent(client: Client, hub: Hub) -> None:
    for how, text in [
        ({"repository": "no-slash"}, "'user/name', not to"),
        ({"repository": "me/../x"}, "'user/name', not to"),
        ({"repository": "me/x@v1"}, "'user/name', not to"),
        ({"tag": "a b"}, "cannot be a tag"),
        ({"tag": "../main"}, "cannot be a tag"),
        ({"license": "My Own"}, "is not a license identifier"),
    ]:
        with case(how, text):
            assert text in client.refuses("push", 1, **{"repository": "me/wrong", **how}, kind="ConfigError")
            assert not hub.log


def test_an_existing_tag_and_a_public_repository_are_not_changed(client: Client, hub: Hub) -> None:
    client("push", 7, "me/stays", tag="v1")
    before = dict(hub.repositories["me/stays"].branches)
    assert "already has a tag 'v1'" in client.refuses("push", 8, "me/stays", tag="v1")
    assert "is already public" in client.refuses("push", 8, "me/stays", private=True)
    assert hub.repositories["me/stays"].branches == before
    assert "Invalid metadata" in client.refuses("push", 8, "me/stays", license="unheard-of")
    assert hub.repositories["me/stays"].branches == before


def test_missing_repositories_and_files_are_named(client: Client, hub: Hub) -> None:
    assert "me/nothing does not exist" in client.refuses("load", "me/nothing")
    hub.put("me/model", {"pytorch_model.bin": b"x", "README.md": b"x"})
    assert "is not a framefold adapter: it has no config.json" in client.refuses("load", "me/model")
    whole = adapter()
    hub.put("me/part", {"config.json": whole["config.json"]})
    assert "has no model.safetensors" in client.refuses("load", "me/part")
    assert downloaded(hub) == ["config.json"]
    hub.put("me/elsewhere", {**whole, "config.json": b'{"model_type": "llama"}'})
    assert "framefold_format" in client.refuses("load", "me/elsewhere", kind="AdapterFileError")


def test_only_files_of_an_adapter_are_downloaded_and_no_code_is_run(client: Client, hub: Hub) -> None:
    evil = {name: NEVER for name in ("fila.py", "__init__.py", "sitecustomize.py", "lora/evil.py", "pytorch_model.bin")}
    evil |= {
        "lora/adapter_model.bin": NEVER,
        "a/config.json": NEVER,
        "model.safetensors.py": NEVER,
        "../up.json": NEVER,
    }
    hub.put("me/evil", adapter(**evil))
    assert client("load", "me/evil")["digest"]
    assert downloaded(hub) == ["config.json", "model.safetensors"]
    config = json.loads(adapter()["config.json"])
    hub.put("me/class", adapter(**{**evil, "config.json": json.dumps(config | {"compressor": "fila.Evil"}).encode()}))
    assert "no compressor is called 'fila.Evil'" in client.refuses("load", "me/class", kind="AdapterFileError")
    hub.put(
        "me/map", adapter(**{"config.json": json.dumps(config | {"auto_map": {"AutoModel": "fila.Evil"}}).encode()})
    )
    assert client("load", "me/map")["digest"]


def test_files_of_implausible_size_are_not_downloaded(client: Client, hub: Hub) -> None:
    hub.put("me/huge", adapter(**{"model.safetensors": save({"static": torch.zeros(6_000_000)})}))
    assert "more than its maximum of" in client.refuses("load", "me/huge")
    assert downloaded(hub) == ["config.json"]
    hub.log.clear()
    hub.put("me/hugeconfig", adapter(**{"config.json": b" " * 2_000_000}))
    assert "config.json of me/hugeconfig has 2,000,000 bytes" in client.refuses("load", "me/hugeconfig")
    assert downloaded(hub) == []


def test_an_interrupted_upload_publishes_nothing_and_can_be_repeated(client: Client, hub: Hub) -> None:
    for fault, times, text in [
        ("drop put", 100, "was lost"),
        ("drop commit", 1, "was lost"),
        ("busy", 100, "busy or out of order (status 503): try again later; nothing was published"),
    ]:
        with case(fault, times, text):
            name = f"me/cut-{fault.replace(' ', '-')}"
            before = client("push", 9, name)["digest"]
            state = dict(hub.repositories[name].branches)
            hub.faults[fault] = times
            assert text in client.refuses("push", 10, name, tag="v2")
            assert hub.repositories[name].branches == state and not hub.repositories[name].tags
            hub.faults.clear()
            assert client("load", name)["digest"] == before
            after = client("push", 10, name, tag="v2")["digest"]
            assert client("load", name, revision="v2")["digest"] == after != before


def test_an_upload_survives_single_interruptions(client: Client, hub: Hub) -> None:
    hub.faults["drop put"] = 2
    digest = client("push", 11, "me/shaky")["digest"]
    assert hub.faults["drop put"] == 0 and client("load", "me/shaky")["digest"] == digest


def test_a_lost_answer_causes_no_second_commit(client: Client, hub: Hub) -> None:
    client("push", 12, "me/lost")
    hub.faults["lose answer"] = 1
    client.refuses("push", 13, "me/lost", tag="v2")
    commits = len(hub.repositories["me/lost"].commits)
    client("push", 13, "me/lost", tag="v2")
    repository = hub.repositories["me/lost"]
    assert len(repository.commits) == commits and repository.tags == {"v2": repository.branches["main"]}
    hub.faults["drop tag"] = 1
    text = client.refuses("push", 14, "me/lost", tag="v3")
    assert f"as commit {repository.branches['main'][:10]}, but without its tag v3" in text
    client("push", 14, "me/lost", tag="v3")
    assert repository.tags["v3"] == repository.branches["main"]


def test_an_interrupted_download_is_an_error_and_leaves_the_cache_valid(client: Client, hub: Hub) -> None:
    for fault in ["drop download", "short download"]:
        with case(fault):
            name = f"me/{fault.replace(' ', '-')}"
            digest = client("push", 15, name)["digest"]
            hub.faults[fault] = 100
            assert "was lost" in client.refuses("load", name)
            hub.faults.clear()
            assert client("load", name)["digest"] == digest


def test_waiting_for_a_hub_that_does_not_answer_is_limited(
    client: Client, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever request of a load or a push is not answered, the client gives up long before the Hub does."""
    client("push", 16, "me/still")
    client("load", "me/still")
    client("setting", limit=0.15)
    monkeypatch.setattr(hub, "stall_seconds", 100.0)
    passed, due = 0, hub.due
    monkeypatch.setattr(hub, "due", lambda fault: len(hub.log) > passed if fault == "stall" else due(fault))
    hub.log.clear()
    assert "cannot be reached" in client("load", "me/still", timeout=60)["warnings"][0]
    for passed in range(20):  # noqa: B007 (the Hub reads it)
        hub.log.clear()
        try:
            client("push", 17 + passed, "me/still", tag=f"v{passed}", timeout=60)
            break
        except ClientError as error:
            assert error.kinds[0] == "HubError" and "was lost (ReadTimeout)" in error.text, error
    assert passed >= 6


def test_concurrent_pushes_are_not_mixed(client: Client, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    client("push", 18, "me/two")
    repository = hub.repositories["me/two"]
    find = repository.find
    seen: list[str] = []

    def moved(revision: str) -> str | None:  # another commit, after the client has read the state
        found = find(revision)
        if hub.log[-1][1].endswith("/preupload/main") and not seen:
            seen.append(revision)
            repository.commit({"config.json": b"{}"})
        return found

    monkeypatch.setattr(repository, "find", moved)
    assert "was changed by another push in the meantime" in client.refuses("push", 19, "me/two")
    assert repository.files == {"config.json": b"{}"}


def test_an_adapter_without_weights_replaces_one_with_weights(client: Client, hub: Hub) -> None:
    client("push", 20, "me/replaced")
    hub.put("me/replaced", hub.repositories["me/replaced"].files | {"notes.txt": b"mine"})
    client("push", None, "me/replaced")
    assert sorted(hub.repositories["me/replaced"].files) == [".gitattributes", "README.md", "config.json", "notes.txt"]
    assert client("load", "me/replaced")["budget"] == 0.1


def test_compressor_and_lora_are_loaded_together(client: Client, hub: Hub, random_host: Path) -> None:
    pytest.importorskip("peft")
    done = client("cli", "export", str(V1 / "fila_lora"), "--push", "me/lora", "--tag", "v1")
    assert done["status"] == 0, done["err"]
    files = hub.repositories["me/lora"].files
    assert {"lora/adapter_config.json", "lora/adapter_model.safetensors"} < files.keys()
    assert 'framefold.load_peft(model, "me/lora", revision="v1")' in files["README.md"].decode()
    config = json.loads((V1 / "fila_lora" / "config.json").read_text())
    del config["host_weights"]  # digest of another host
    hub.put("me/lora", files | {"config.json": json.dumps(config).encode()})
    loaded = client("load", "me/lora")
    assert "framefold.load_peft(host, 'me/lora')" in loaded["warnings"][0]
    assert client("load_peft", str(random_host), "me/lora")["digest"] == loaded["digest"]
    assert files["model.safetensors"] == (V1 / "fila_lora" / "model.safetensors").read_bytes()


def test_export_pushes_only_what_it_writes(client: Client, hub: Hub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("secret.txt", "evil.py", "optimizer.pt"):
        (out / name).write_text("private")
    words = ["export", "st_simdiff", "--budget", "0.1", "--out", str(out), "--push", "me/exported", "--private"]
    done = client("cli", *words, "--tag", "v1")
    assert done["status"] == 0 and "pushed st_simdiff" in done["out"], done
    repository = hub.repositories["me/exported"]
    assert repository.private and repository.tags.keys() == {"v1"}
    assert sorted(repository.files) == [".gitattributes", "README.md", "config.json"]
    assert repository.files["config.json"] == (out / "config.json").read_bytes()
    assert "me/exported" in (out / "README.md").read_text() and str(tmp_path) not in str(repository.files)
    again = client("cli", "export", "me/exported@v1", "--out", str(tmp_path / "copy"))
    assert again["status"] == 0 and (tmp_path / "copy" / "config.json").read_bytes() == repository.files["config.json"]
    failed = client("cli", *words, "--tag", "v1")
    assert failed["status"] == 2 and failed["err"].count("\n") == 1 and "already has a tag 'v1'" in failed["err"]


def test_commands_accept_names_on_the_hub(client: Client, hub: Hub, tmp_path: Path) -> None:
    digest = client("push", 21, "me/start", tag="v1")["digest"]
    client("push", 22, "me/start")
    assert client("start_of_training", "me/start@v1") == digest != client("start_of_training", "me/start")
    missing = client("cli", "answer", "--host", "x", "--video", "x", "--question", "x", "--compressor", "me/nowhere")
    assert missing["status"] == 2 and "me/nowhere does not exist" in missing["err"]
    words = [
        "ablate",
        "--out",
        f"{tmp_path}/x",
        "--host",
        str(TINYHOST),
        "--compressors",
        "uniform",
    ]
    missing = client("cli", *words, "--adapters", "me/nowhere@v1")
    assert missing["status"] == 2 and "me/nowhere does not exist" in missing["err"]
    missing = client("cli", "show", "--video", "x", "--out", f"{tmp_path}/x.png", "--compressor", "me/nowhere@v1")
    assert missing["status"] == 2 and "me/nowhere does not exist" in missing["err"]


def test_a_folder_takes_precedence_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    download = "framefold.adapters.pretrained.hub.download_adapter"
    monkeypatch.setattr(download, lambda name, revision: pytest.fail(f"{name} was looked up"))
    (tmp_path / "me" / "here").mkdir(parents=True)
    assert locate_adapter("me/here") == Path("me/here") and locate_adapter(tmp_path) == tmp_path
    for text in ("./me/there", "/me/there", "name", "a/b/c", "../me/there"):
        assert locate_adapter(text) == Path(text)
    assert locate_adapter(Path("other/there")) == Path("other/there")
    with pytest.raises(AdapterFileError, match="me/there is not an adapter folder.*me/there@main"):
        locate_adapter("me/there")
    with pytest.raises(ConfigError, match="a revision can only be given"):
        locate_adapter("./me/here", "v1")
    monkeypatch.setattr(download, lambda name, revision: Path(f"{name} at {revision}"))
    assert locate_adapter("me/here@v1") == Path("me/here at v1") == locate_adapter("me/here", "v1")
    assert locate_adapter("you/there") == Path("you/there at None")
