"""Checkpoints are exported as adapter folders; other files are refused by name."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import framefold
from framefold.adapters.hosts.lora.digest import adapter_digest
from framefold.adapters.pretrained.base_model import BaseModel
from framefold.cli.export import export
from framefold.errors import AdapterFileError, BudgetError, ConfigError, FramefoldError, ResultsError
from framefold.files import weights_digest
from framefold.training.frozen_host.load import load_host
from tests.support.cases import case
from tests.support.hub.loopback_hub import metadata_problems
from tests.support.paths import ASSETS

V1 = ASSETS / "adapters_v1"


def checkpoint(file: Path, width: int = 8, **changes: object) -> framefold.Compressor:
    """Write a checkpoint like the Lightning module does, and return its compressor."""
    fila = framefold.build("fila", 0.1, members="cluster")
    fila(framefold.VideoTokens.from_grid(torch.randn(4, 4, 4, width)))
    with torch.no_grad():
        for parameter in fila.parameters():
            parameter.normal_()
    hyper = {"compressor": "fila", "budget": 0.1, "params": fila.params(), "host": "checkpoints/tinyhost"}
    state = {f"compressor.{key}": value for key, value in fila.state_dict().items()}
    torch.save({"hyper_parameters": hyper | changes, "state_dict": state}, file)
    return fila


def test_an_exported_adapter_compresses_like_the_trained_one(tmp_path: Path) -> None:
    fila = checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path), str(tmp_path / "adapter"))
    video = framefold.VideoTokens.from_grid(torch.randn(6, 4, 4, 8))
    loaded = framefold.load(tmp_path / "adapter")
    assert torch.equal(loaded(video).tokens.features, fila(video).tokens.features)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "no checkpoint at"), (b"garbage", "is not a checkpoint"), ({"params": {"r": "x"}}, "r must be int")],
)
def test_other_files_than_checkpoints_are_refused(tmp_path: Path, content: object, text: str) -> None:
    file = tmp_path / "last.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        checkpoint(file, **content)
    with pytest.raises(AdapterFileError, match=text):
        export(str(file), str(tmp_path / "adapter"))
    assert not (tmp_path / "adapter").exists()


def test_a_class_path_in_a_checkpoint_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint(tmp_path / "last.ckpt", compressor="stranger.Fila")
    with pytest.raises(AdapterFileError, match="no compressor is called"):
        export(str(tmp_path / "last.ckpt"), str(tmp_path / "adapter"))
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"hyper_parameters": Evil(), "state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(AdapterFileError):
        export(str(tmp_path / "last.ckpt"), str(tmp_path / "adapter"))
    assert not (tmp_path / "owned").exists()


def test_the_newest_checkpoint_of_a_run_is_exported_with_its_host(tmp_path: Path) -> None:
    for number, seconds in ((0, 2000), (1, 3000), (2, 1000)):
        folder = tmp_path / f"version_{number}"
        folder.mkdir()
        checkpoint(folder / "last.ckpt", budget=0.1 * (number + 1))
        os.utime(folder / "last.ckpt", (seconds, seconds))
    export(str(tmp_path), str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["budget"] == 0.2 and config["base_model_name_or_path"] == "checkpoints/tinyhost"


def run(folder: Path, host: Path, **data: object) -> framefold.Compressor:
    """Write a run folder like ``framefold fit``: a checkpoint, and the configuration two folders above it."""
    (folder / "version_0" / "checkpoints").mkdir(parents=True)
    more = {"host": str(host), "lr": 0.02, "start": None, "train_budgets": [0.1, 0.05], "losses": {"kl": 1.0}}
    fila = checkpoint(folder / "version_0" / "checkpoints" / "last.ckpt", width=32, **more)
    config = {
        "model": {"compressor": "fila", "lr": 0.02},
        "data": {"shards": None, "frames": [16, 18], "difficulty": "hard", "style": "normal", "batch_size": 2, **data},
        "trainer": {"precision": "32-true", "strategy": {"class_path": "x.Y", "init_args": {}}, "devices": 2},
    }
    (folder / "version_0" / "config.yaml").write_text(yaml.safe_dump(config))
    return fila


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def card_of(folder: Path) -> tuple[dict, str]:
    """Return metadata and text of a model card."""
    _, data, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(data), text


def test_the_config_records_host_recipe_and_frames(tmp_path: Path, random_host: Path) -> None:
    run(tmp_path / "run", random_host)
    config = config_of(export(str(tmp_path / "run"), str(tmp_path / "adapter")))
    assert (config["host"], config["width"]) == ("llava_onevision", 32)
    assert config["host_weights"] == weights_digest(random_host)
    assert config["base_model_name_or_path"] == random_host.name and config["base_model_revision"] is None
    training = config["training"]
    assert (training["lr"], training["losses"], training["train_budgets"]) == (0.02, {"kl": 1.0}, [0.1, 0.05])
    assert training["data"] == {"source": "synthetic", "difficulty": "hard", "style": "normal", "batch_size": 2}
    assert training["trainer"] == {"strategy": "x.Y", "devices": 2, "precision": "32-true"}
    assert config["frame_sampling"] == {"method": "even", "frames": [16, 18]}
    assert config["framefold_version"] == framefold.__version__
    assert framefold.load(tmp_path / "adapter").base_model == BaseModel(
        random_host.name, None, "llava_onevision", 32, weights_digest(random_host)
    )


@pytest.mark.parametrize(
    ("shards", "published"),
    [
        ("{tmp}/secret/shards", "shards"),
        ("{tmp}/secret/a.tar::{tmp}/secret/b.tar", "a.tar::b.tar"),
        ("pipe:curl -H token=1 http://x", "remote"),
        ("a.tar::https://token@x/b.tar", "remote"),
        ("s3://token/b.tar", "remote"),
        ("data/x", "data/x"),
        ("data/exp-12:30", "data/exp-12:30"),
    ],
)
def test_local_paths_and_keys_are_not_published(shards: str, published: str, tmp_path: Path, random_host: Path) -> None:
    run(tmp_path / "run", random_host, shards=shards.format(tmp=tmp_path))
    out = export(str(tmp_path / "run"), str(tmp_path / "adapter"), base_model="some/host@abc")
    config = config_of(out)
    assert config["training"]["data"]["shards"] == published
    assert (config["base_model_name_or_path"], config["base_model_revision"]) == ("some/host", "abc")
    text = (out / "config.json").read_text()
    assert "secret" not in text and "token" not in text and str(random_host.parent) not in text
    assert card_of(out)[0]["base_model"] == "some/host"


def test_the_configuration_of_another_run_is_ignored(tmp_path: Path, random_host: Path) -> None:
    run(tmp_path / "run", random_host)
    file = tmp_path / "run" / "version_0" / "config.yaml"
    for text in (
        file.read_text().replace("compressor: fila", "compressor: storm"),
        "!!python/object:os.system x",
        "\0",
    ):
        file.write_text(text)
        config = config_of(export(str(tmp_path / "run"), str(tmp_path / "adapter")))
        assert "frame_sampling" not in config and "data" not in config["training"]


def test_a_missing_host_is_left_out_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "run", tmp_path / "gone")
    config = config_of(export(str(tmp_path / "run"), str(tmp_path / "adapter")))
    assert config["base_model_name_or_path"] == "gone" and not {"host", "width", "host_weights"} & config.keys()
    assert "does not exist here" in capsys.readouterr().err


def test_the_card_describes_the_adapter_and_how_to_load_it(tmp_path: Path, random_host: Path) -> None:
    run(tmp_path / "run", random_host)
    out = export(str(tmp_path / "run"), str(tmp_path / "adapter"), license="mit", base_model="some/host")
    data, text = card_of(out)
    assert {
        key: data[key] for key in ("library_name", "license", "base_model", "base_model_relation", "pipeline_tag")
    } == {
        "library_name": "framefold",
        "license": "mit",
        "base_model": "some/host",
        "base_model_relation": "adapter",
        "pipeline_tag": "video-text-to-text",
    }
    assert data["tags"] == ["framefold", "compressor:fila", "token-compression"] and "model-index" not in data
    assert "nothing but synthetic videos" in text and "No results were given" in text
    assert metadata_problems((out / "README.md").read_text()) == []
    lines = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0]
    host = load_host(random_host).model
    exec(lines, {"framefold": framefold, "model": host})  # the two lines of code in the card
    assert host.compressor.name == "fila"


def test_a_handwritten_card_is_not_changed(tmp_path: Path, random_host: Path) -> None:
    run(tmp_path / "run", random_host)
    out = export(str(tmp_path / "run"), str(tmp_path / "adapter"))
    export(str(tmp_path / "run"), str(out), license="mit")
    assert card_of(out)[0]["license"] == "mit"
    (out / "README.md").write_text("mine")
    export(str(tmp_path / "run"), str(out))
    assert (out / "README.md").read_text() == "mine"


def test_markup_in_a_config_does_not_reach_the_card(tmp_path: Path) -> None:
    evil = "x` | y\n\n# Owned\n---\nlicense: mit\n<script>"
    fields = {"training": {evil: evil}, "compressor_classes": {evil: evil, "x": "os.system\n# Owned", "y": 3}}
    framefold.build("uniform", 0.1).save_pretrained(tmp_path / "a", base_model_name_or_path=evil, **fields)
    data, text = card_of(export(str(tmp_path / "a"), str(tmp_path / "b")))
    assert "license" not in data and "base_model" not in data  # no licence was chosen
    assert "\n# Owned" not in text and "<script>" not in text


def test_an_adapter_is_exported_again_unchanged(tmp_path: Path) -> None:
    out = export(str(V1 / "fila_lora"), str(tmp_path / "again"))
    for name in ("model.safetensors", "lora/adapter_model.safetensors"):
        assert load_file(out / name).keys() == load_file(V1 / "fila_lora" / name).keys()
        assert all(torch.equal(v, load_file(V1 / "fila_lora" / name)[k]) for k, v in load_file(out / name).items())
    before, after = config_of(V1 / "fila_lora"), config_of(out)
    after["params"] = {name: after["params"][name] for name in before["params"]}  # without those of later versions
    assert {key: after[key] for key in before} == before
    assert "framefold.load_peft(model" in card_of(out)[1] and "lora" in card_of(out)[0]["tags"]
    export(str(V1 / "fila"), str(out))  # files of the previous weights are removed
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    export("uniform", str(out))
    assert sorted(file.name for file in out.iterdir() if file.is_file()) == ["README.md", "config.json"]


def test_a_compressor_without_weights_is_exported_by_name(tmp_path: Path) -> None:
    for name, params in (("st_simdiff", {"tau_sim": 0.7}), ("uniform+st_simdiff", {"st_simdiff": {"tau_sim": 0.7}})):
        out = export(name, str(tmp_path / name), budget=0.1, params=params)
        loaded = framefold.load(out)
        assert loaded.name == name and loaded.budget == 0.1 and "0.7" in str(loaded.params())
        assert not (out / "model.safetensors").exists() and "no parameters" in card_of(out)[1]


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        ({}, ConfigError, "export needs a folder"),
        ({"out": "x", "tag": "v1"}, ConfigError, "need --push"),
        ({"out": "x", "private": True}, ConfigError, "need --push"),
        ({"out": "x", "push": "nobody"}, ConfigError, "'user/name', not to"),
        ({"out": "x", "license": "a b"}, ConfigError, "is not a license identifier"),
        ({"out": "x", "base_model": "/my/host"}, ConfigError, "base_model is a name on the Hub"),
        ({"out": "x", "budget": 7.5}, BudgetError, "ratio"),
        ({"out": "x", "params": {"tau": 1}}, ConfigError, "no parameter 'tau'"),
        ({"checkpoint": "fila", "out": "x"}, ConfigError, "has weights that must be trained"),
        ({"checkpoint": str(V1 / "fila"), "out": "x", "params": {"r": 3}}, ConfigError, "has its own"),
        ({"out": "x", "results": "nowhere"}, FramefoldError, "no results in nowhere"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    words: dict, error: type, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=text):
        export(**{"checkpoint": "st_simdiff", **words})
    assert not list(tmp_path.iterdir())


def test_a_failing_disk_leaves_the_previous_folder_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = export(str(V1 / "fila_lora"), str(tmp_path / "out"))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}

    def full_disk(source: Path, target: Path) -> None:
        if "README" in str(target):
            raise OSError(28, "No space left on device")
        shutil.copy(source, target)

    monkeypatch.setattr("framefold.training.export.write.shutil.copyfile", full_disk)
    with pytest.raises(OSError, match="No space"):
        export("uniform", str(out))
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def cell(row: str, budget: float, right: int, **changes: object) -> dict:
    """Return a result of an ablation, as far as a card uses it: 20 questions about 20 videos."""
    data = {"kind": "synthetic", "videos": 20, "frames": 64, "seed": 0, "split": "test", "style": "normal"}
    settings = {"adapter": None, "params": {}, "seed": 0, "exclude": [], "data": {**data, "difficulty": {}}}
    answers = {"draw": list(range(20)), "type": ["needle"] * 20, "correct": [i < right for i in range(20)]}
    one = {"compressor": row, "budget": budget, "tokens": 1024 * budget, "n": 20, "answers": answers}
    return {**one, "settings": settings | changes}


def test_the_card_shows_the_results_of_exactly_these_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = adapter_digest(V1 / "fila"), "another"
    cells = [cell("fila", 0.1, 16, adapter=mine), cell("fila", 0.05, 12, adapter=mine)]
    cells += [cell("fila", 0.1, 2, adapter=other, seed=1), cell("scene_mean", 0.1, 10), cell("uniform", 0.1, 5)]
    cells += [cell("identity", 1.0, 18)]
    monkeypatch.setattr("framefold.evaluation.results.card_results.read_results", lambda folder: cells)
    data, text = card_of(export(str(V1 / "fila"), str(tmp_path / "fila"), results="results"))
    (result,) = data["model-index"][0]["results"]
    assert result["dataset"]["type"] == "framefold/synthetic" and result["task"]["type"] == "video-text-to-text"
    assert [(one["name"], one["value"], one["args"]["tokens"]) for one in result["metrics"]] == [
        ("accuracy at 10 %", 80.0, 102.4),
        ("accuracy at 5 %", 60.0, 51.2),
    ]
    low, high = result["metrics"][0]["args"]["interval_95"]
    assert 50 < low < 80 < high < 100
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert re.match(r"\| fila \| 80\.0 \[.*\] \| 60\.0 \[.*\] \|", rows["fila"])
    assert "50.0 [" in rows["scene_mean"] and rows["identity"].count("90.0 [") == 2 and "uniform" not in rows
    assert metadata_problems((tmp_path / "fila" / "README.md").read_text()) == []
    cells[:2] = []
    with pytest.raises(ResultsError, match="was measured with these weights of fila"):
        export(str(V1 / "fila"), str(tmp_path / "not"), results="results")
    assert not (tmp_path / "not").exists()


def test_without_weights_the_parameters_decide_which_results_belong_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell("random", 0.1, 10), cell("random", 0.1, 20, seed=3), cell("random", 0.1, 1, adapter="x")]
    monkeypatch.setattr("framefold.evaluation.results.card_results.read_results", lambda folder: cells)
    for seed, value in ((0, 50.0), (3, 100.0)):
        data, _ = card_of(export("random", str(tmp_path / "a"), params={"seed": seed}, results="results"))
        assert [one["value"] for one in data["model-index"][0]["results"][0]["metrics"]] == [value]
    with pytest.raises(ResultsError):
        export("random", str(tmp_path / "b"), params={"seed": 4}, results="results")


def test_the_command_takes_the_checkpoint_as_its_first_word(tmp_path: Path) -> None:
    from framefold.cli.parser import call

    assert call(export, "export", ["st_simdiff", "--budget", "0.1", "--out", str(tmp_path / "a")]) == 0
    assert framefold.load(tmp_path / "a").budget == 0.1
    with pytest.raises(SystemExit, match="unrecognized|nrecognized"):
        call(export, "export", ["--out", str(tmp_path / "b"), "st_simdiff"])


def test_the_best_checkpoint_is_exported_if_validation_is_the_users_own(
    tmp_path: Path, random_host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --which, data that were generated do not decide; the message says which checkpoint it is and why."""
    for data, which, expected, reason in (
        ({}, None, "last", "not validated on data of yours"),
        ({"shards": "/data/a"}, None, "last", "not validated on data of yours"),
        ({"val_share": 0.1}, None, "last", "not validated on data of yours"),
        ({"shards": "/data/a", "val_share": 0.0}, None, "last", "not validated on data of yours"),
        ({"shards": "/data/a", "val_share": 0.1}, None, "best", "held out by data.val_share"),
        ({"val_shards": "/data/b"}, None, "best", "on its data.val_shards"),
        ({"val_shards": "/data/b"}, "last", "last", "as --which says"),
        ({}, "best", "best", "by val/accuracy 0.5, as --which says"),
    ):
        folder = tmp_path / f"{data} {which}"
        with case(data, which):
            run(folder, random_host, **data)
            files = {name: folder / "version_0" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
            best = torch.load(files["last"], weights_only=True)
            best["hyper_parameters"]["budget"] = 0.3
            best["callbacks"] = {"BestCheckpoint{}": {"monitor": "val/accuracy", "current_score": torch.tensor(0.5)}}
            torch.save(best, files["best"])
            capsys.readouterr()
            export(str(folder), str(folder / "adapter"), which=which)
            assert config_of(folder / "adapter")["budget"] == (0.3 if expected == "best" else 0.1)
            out = capsys.readouterr().out
            assert f"from {files[expected]}, the {expected} one" in out and reason in out


def test_a_best_checkpoint_that_was_never_right_is_not_taken(
    tmp_path: Path, random_host: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where answers are sentences, accuracy stays 0, and the best checkpoint is that of the first validation."""
    run(tmp_path, random_host, val_shards="/data/b")
    checkpoints = tmp_path / "version_0" / "checkpoints"
    best = torch.load(checkpoints / "last.ckpt", weights_only=True)
    state = {"current_score": torch.tensor(0.0)}
    for monitor, which, expected in (
        ("val/accuracy", None, "the last one: val/accuracy 0 in all validations tells none apart (--which best)"),
        ("val/accuracy", "best", "the best one by val/accuracy 0, as --which says"),
        ("val/loss", None, "the best one by val/loss 0, on its data.val_shards"),
    ):
        best["callbacks"] = {"BestCheckpoint{}": state | {"monitor": monitor}}
        torch.save(best, checkpoints / "best.ckpt")
        capsys.readouterr()
        export(str(tmp_path), str(tmp_path / f"{monitor} {which}".replace("/", "_")), which=which)
        assert expected in capsys.readouterr().out, (monitor, which)


def test_which_finds_the_best_checkpoint_of_the_run_before_it_was_resumed(tmp_path: Path, random_host: Path) -> None:
    run(tmp_path, random_host, val_shards="/data/b")
    shutil.copytree(tmp_path / "version_0", tmp_path / "version_1")
    first, second = (tmp_path / f"version_{number}" / "checkpoints" for number in (0, 1))
    best = torch.load(first / "last.ckpt", weights_only=True)
    best["hyper_parameters"]["budget"] = 0.3
    torch.save(best, first / "best.ckpt")
    last = torch.load(second / "last.ckpt", weights_only=True)
    last["callbacks"] = {"BestCheckpoint{}": {"best_model_path": str(first / "best.ckpt")}}
    torch.save(last, second / "last.ckpt")
    export(str(tmp_path), str(tmp_path / "adapter"))
    assert config_of(tmp_path / "adapter")["budget"] == 0.3


def test_which_is_refused_where_there_is_nothing_to_choose(tmp_path: Path, random_host: Path) -> None:
    run(tmp_path, random_host)
    file = str(tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    for source, which, error, text in (
        (str(tmp_path), "best", AdapterFileError, "has no complete best.ckpt"),
        (file, "last", ConfigError, "is a checkpoint: --which chooses"),
        (str(V1 / "fila"), "best", ConfigError, "is an adapter: --which chooses"),
        ("st_simdiff", "best", ConfigError, "has no checkpoints: --which chooses"),
    ):
        with case(source, which), pytest.raises(error, match=text):
            export(source, str(tmp_path / "adapter"), which=which)
    assert not (tmp_path / "adapter").exists()
