"""framefold checkpoint: any number of ranks resumes exactly, and every kind of checkpoint has the same tensors."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from safetensors.torch import load_file

import framefold
from framefold.__main__ import main
from framefold.errors import CheckpointError
from framefold.training.checkpoint.inventory import list_checkpoints, read_manifest, size_and_crc, write_manifest
from framefold.training.checkpoint.read import safe_deepspeed_load
from framefold.training.checkpoint.resume import check_compatible
from framefold.training.strategies.deepspeed import DeepSpeedOnCPU
from tests.support.ranks.fork_server import ForkServer, Run
from tests.support.weights import relative_differences

STEPS = 7  # a checkpoint is written after the fourth and after the last
CODE = "from tests.support.ranks.watched_training import arm; arm(rank, {})"


class Runs:
    """Trainings on the same global batches; each runs when it is first used."""

    def __init__(self, ranks: ForkServer, words: list[str], folder: Path) -> None:
        self.ranks, self.words, self.folder = ranks, words, folder
        self.alone = False  # train a number that has a group of parameters for itself

    def try_to(self, root: Path, strategy: str, world: int, *more: str) -> Run:
        batch = ["--trainer.devices", str(world), "--data.batch_size", str(2 // world), "--trainer.strategy"]
        words = [*self.words, *batch, *strategy.split(), "--trainer.default_root_dir", str(root), *more]
        logs = root.with_name(f"{root.name}-logs-{len(list(root.parent.iterdir()))}")
        return self.ranks.run(words, logs, world=world, code=CODE.format(self.alone), WATCH=str(root) + ".pt")

    def fit(self, root: Path, strategy: str, world: int, *more: str) -> dict[str, Any]:
        """Train and return what the trainer held, see :mod:`.watched_training`."""
        run = self.try_to(root, strategy, world, *more)
        assert run.statuses == [0] * world, run.text()[-3000:]
        return torch.load(str(root) + ".pt", weights_only=True)

    def uninterrupted(self, strategy: str, world: int) -> tuple[Path, dict[str, Any]]:
        """Return the folder of the checkpoints of an uninterrupted run, and what its trainer held."""
        root = self.folder / f"{strategy.partition(' ')[0]}-{world}{'-alone' * self.alone}"
        if not root.exists():
            self.fit(root, strategy, world)
        return root / "version_0/checkpoints", torch.load(str(root) + ".pt", weights_only=True)


@pytest.fixture(scope="module")
def runs(ranks: ForkServer, random_host: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    where = ["--model.host", str(random_host), "--data.shards", str(shards), "--data.lanes", "2"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--last.every", "4"]
    lora = ["--model.lora.r", "2", "--model.lora.dropout", "0", "--model.lora.lr", "0.01", "--model.warmup", "0.3"]
    lora += ["--model.weight_decay", "0.1"]  # of some groups
    words = ["fit", *files, *where, *quiet, *lora, "--trainer.max_steps", str(STEPS)]
    return Runs(ranks, words, tmp_path_factory.mktemp("runs"))


ZERO_2, ZERO_3 = "deepspeed_cpu_stage_2", "deepspeed_cpu_stage_3"
FSDP2 = "framefold.training.strategies.fsdp2.FSDP2 --trainer.strategy.save_distributed_checkpoint true"


def assert_resumed_exactly(found: dict[str, Any], expected: dict[str, Any], alone: bool = False) -> None:
    """Compare what two trainers held after four steps, and their weights at the end."""
    assert found["weights"].keys() == expected["weights"].keys() and len(found["weights"]) == 6 + alone
    for name, values in expected["weights"].items():
        for key, value in values.items():
            assert value.equal(found["weights"][name][key]), (name, key)
            assert bool(value.any()) or name == "compressor.alone"
    assert found["steps"] == expected["steps"] == [4.0]
    assert found["groups"] == expected["groups"] and found["schedule"] == expected["schedule"]
    assert found["schedule"]["last_epoch"] == 4 and 0 < found["groups"][0]["lr"] < found["schedule"]["base_lrs"][0]
    start = {name: values["fp32"] for name, values in expected["weights"].items()}
    differences = relative_differences(start, expected["end"], found["end"])
    assert max(differences.values()) < 1e-4, differences


@pytest.mark.parametrize(
    ("before", "ranks_before", "after", "ranks_after"),
    [(ZERO_3, 2, ZERO_3, 1), (ZERO_2, 2, ZERO_3, 1), (ZERO_3, 2, ZERO_2, 1), (ZERO_2, 1, ZERO_2, 2)],
)
def test_another_number_of_ranks_resumes_exactly(
    runs: Runs, tmp_path: Path, monkeypatch: Any, before: str, ranks_before: int, after: str, ranks_after: int
) -> None:
    alone = ranks_after > ranks_before  # the second rank then owns nothing of that group
    monkeypatch.setattr(runs, "alone", alone)
    checkpoints, expected = runs.uninterrupted(before, ranks_before)
    out = str(tmp_path / "any [1]")  # DeepSpeed passes paths to glob
    assert main(["checkpoint", "universal", str(checkpoints / "previous.ckpt"), "--out", out]) == 0
    assert_resumed_exactly(runs.fit(tmp_path / "run", after, ranks_after, "--resume", out), expected, alone)
    assert list_checkpoints(tmp_path / "run")[0].step == STEPS


def test_the_refusal_of_another_number_of_ranks_names_the_command_that_helps(runs: Runs, tmp_path: Path) -> None:
    checkpoints, expected = runs.uninterrupted(ZERO_2, 2)
    run = runs.try_to(tmp_path / "one", ZERO_2, 1, "--resume", str(checkpoints / "previous.ckpt"))
    text = run.text().splitlines()[-1]
    assert run.statuses == [2] and "written by 2 ranks with deepspeed_cpu_stage_2, this run has 1 with" in text, text
    words = shlex.split(re.findall("'framefold (checkpoint universal .* --out) DIR'", text)[0])
    assert main([*words, str(tmp_path / "any")]) == 0 and "--resume DIR" in text
    assert_resumed_exactly(runs.fit(tmp_path / "one", ZERO_2, 1, "--resume", str(tmp_path / "any")), expected)


def test_the_refusal_of_another_stage_or_strategy_names_what_helps(runs: Runs, tmp_path: Path) -> None:
    def check(path: Path, strategy: Any, world: int) -> None:
        check_compatible(path, SimpleNamespace(strategy=strategy, world_size=world))  # type: ignore[arg-type]

    checkpoint = runs.uninterrupted(ZERO_2, 2)[0] / "last.ckpt"
    with pytest.raises(CheckpointError, match=r"this run has 2 with deepspeed_cpu_stage_3.*framefold checkpoint univ"):
        check(checkpoint, DeepSpeedOnCPU(stage=3), 2)
    check(checkpoint, DeepSpeedOnCPU(stage=1), 2)
    with pytest.raises(CheckpointError, match="written by SingleDeviceStrategy, this run uses deepspeed_cpu_stage_2"):
        check(runs.uninterrupted("auto", 1)[0] / "last.ckpt", DeepSpeedOnCPU(stage=2), 2)
    with pytest.raises(CheckpointError, match="deepspeed_cpu_stage_2, or start a new run from its weights") as refused:
        check(checkpoint, SingleDeviceStrategy(), 1)
    words = shlex.split(re.findall("'framefold (export .* --out) DIR'", str(refused.value))[0])
    assert main([*words, str(tmp_path / "adapter")]) == 0
    runs.fit(tmp_path / "new", "auto", 1, "--model.start", str(tmp_path / "adapter"), "--trainer.max_steps", "1")


def exported_names(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the weights of a run under their names in exported files: the compressor's, and LoRA's."""
    lora = {name: value for name, value in values.items() if ".lora_" in name}
    names = {name: f"base_model.model.{name.removeprefix('model.')}".replace(".default.", ".") for name in lora}
    rest = {name.removeprefix("compressor."): value for name, value in values.items() if name not in lora}
    return rest, {names[name]: value for name, value in lora.items()}


def assert_contains(file: Path, expected: dict[str, Any]) -> None:
    found = load_file(file)
    assert found.keys() == expected.keys() and all(value.equal(found[name]) for name, value in expected.items())


FORMS = {"file": ("auto", 1), "zero_2": (ZERO_2, 2), "zero_3": (ZERO_3, 2), "fsdp2": (FSDP2, 2)}


@pytest.mark.parametrize("form", [*FORMS, "zero_2 universal", "zero_3 universal"])
def test_every_form_has_the_tensors_of_the_run(runs: Runs, tmp_path: Path, form: str) -> None:
    checkpoints, held = runs.uninterrupted(*FORMS[form.split()[0]])
    checkpoint, run = checkpoints / "last.ckpt", checkpoints.parent.parent
    if "universal" in form:
        checkpoint = run = tmp_path / "any"
        assert main(["checkpoint", "universal", str(checkpoints / "last.ckpt"), "--out", str(checkpoint)]) == 0
    assert main(["checkpoint", "consolidate", str(checkpoint), "--out", str(tmp_path / "plain")]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "adapter")]) == 0
    compressor, lora = exported_names(held["end"])
    assert len(compressor) == 2 and len(lora) == 4 and all(bool(value.any()) for value in held["end"].values())
    assert_contains(tmp_path / "plain/model.safetensors", compressor)
    assert_contains(tmp_path / "plain/lora.safetensors", lora)
    assert_contains(tmp_path / "adapter/model.safetensors", compressor)
    assert_contains(tmp_path / "adapter/lora/adapter_model.safetensors", lora)
    about = json.loads((tmp_path / "plain/checkpoint.json").read_text())
    assert about["step"] == STEPS and about["compressor"] == "fila" and about["lora"]["r"] == 2
    with pytest.warns(UserWarning, match="LoRA"):
        assert framefold.load(tmp_path / "adapter").name == "fila"


def test_a_folder_without_our_manifest_is_exported(runs: Runs, tmp_path: Path) -> None:
    checkpoints, held = runs.uninterrupted(ZERO_2, 2)
    shutil.copytree(checkpoints / "last.ckpt", tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt/manifest.json").unlink()
    assert main(["export", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "adapter")]) == 0
    assert_contains(tmp_path / "adapter/model.safetensors", exported_names(held["end"])[0])


def test_the_list_shows_all_checkpoints_and_damage(runs: Runs, tmp_path: Path, capsys: Any) -> None:
    for version, (strategy, world) in enumerate([(ZERO_2, 2), ("auto", 1)]):
        shutil.copytree(runs.uninterrupted(strategy, world)[0], tmp_path / f"version_{version}")
    os.truncate(tmp_path / "version_1/last.ckpt", 3000)
    assert main(["checkpoint", "list", "--run", str(tmp_path)]) == 0
    head, *rows, hint = capsys.readouterr().out.splitlines()
    assert head.split() == ["checkpoint", "step", "kind", "strategy", "ranks", "written", "size", "state"]
    shown = {row.split()[0]: row for row in rows}
    assert re.search(r" 7  deepspeed  deepspeed_cpu_stage_2 +2  \S+ \S+  .*MB  complete$", shown["version_0/last.ckpt"])
    assert re.search(r" 4  file +\S+ +1  .*MB  complete$", shown["version_1/previous.ckpt"]) and len(rows) == 4
    assert "DAMAGED: " in shown["version_1/last.ckpt"]
    assert hint == f"to resume from step 7: framefold fit --resume {tmp_path / 'version_0/last.ckpt'} ..."
    assert main(["checkpoint", "list", str(tmp_path / "version_1/last.ckpt")]) == 1
    assert "no complete checkpoint" in capsys.readouterr().out
    assert main(["checkpoint", "list", str(tmp_path / "nothing")]) == 2


VERBS = ("checkpoint universal", "checkpoint consolidate", "export")
REFUSED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a file": ("file", "is of kind file: only DeepSpeed checkpoints are converted", VERBS[:1]),
    "of FSDP2": ("fsdp2", "is of kind fsdp2: only DeepSpeed checkpoints are converted", VERBS[:1]),
    "a flipped bit": ("zero_2", "the CRC of checkpoint/mp_rank_00_model_states.pt is wrong", VERBS),
    "no folder of files": ("zero_2", "is missing", VERBS),
    "nothing there": ("nothing", "no (complete checkpoint in|checkpoint at)", VERBS),
    "no weights": ("zero_2", "(cannot convert|the weights of) .*last.ckpt", VERBS),
}


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(runs: Runs, tmp_path: Path, capsys: Any) -> None:
    for number, (case, (form, text, verbs)) in enumerate(REFUSED.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        checkpoint = folder / "last.ckpt"
        if form in FORMS:
            source = runs.uninterrupted(*FORMS[form])[0] / "last.ckpt"
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, checkpoint)
        model = checkpoint / "checkpoint/mp_rank_00_model_states.pt"
        if case == "a flipped bit":
            data = bytearray(model.read_bytes())
            data[len(data) // 2] ^= 8
            model.write_bytes(data)
        elif case == "no folder of files":
            shutil.rmtree(checkpoint / "checkpoint")
        elif case == "no weights":
            for file in checkpoint.rglob("*optim_states.pt"):
                torch.save({}, file)
            seal(checkpoint)
        for verb in verbs:
            assert main([*verb.split(), str(checkpoint), "--out", str(folder / "new/out")]) == 2, (case, verb)
            assert re.search(text, capsys.readouterr().err), (case, verb)
        assert {file.name for file in folder.iterdir()} <= {"last.ckpt"}, case


def seal(folder: Path) -> None:
    """Write a manifest that fits the present files."""
    about = read_manifest(folder)
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "manifest.json"]
    write_manifest(
        folder,
        {key: value for key, value in about.items() if key != "files"},
        {str(file.relative_to(folder)): size_and_crc(file) for file in files},
    )


def test_an_existing_folder_is_kept_and_a_failure_leaves_nothing(
    runs: Runs, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    from deepspeed.checkpoint import ds_to_universal

    place = str(runs.uninterrupted(ZERO_2, 2)[0] / "last.ckpt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    for verb in VERBS[:2]:
        assert main([*verb.split(), place, "--out", str(tmp_path / "out")]) == 2
        assert "exists already: give another --out" in capsys.readouterr().err
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "mine"]
    real = ds_to_universal.main
    for error, status in ((OSError(28, "No space left on device"), 1), (KeyboardInterrupt(), 130), (KeyError("x"), 2)):

        def fail(args: Any, error: BaseException = error) -> None:
            real(args)
            raise error

        monkeypatch.setattr(ds_to_universal, "main", fail)
        assert main(["checkpoint", "universal", place, "--out", str(tmp_path / "a/b/out")]) == status
        assert [file.name for file in tmp_path.rglob("*")] == ["out", "mine"]


class Evil:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, owned: Path) -> None:
        self.owned = str(owned)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.owned,)


def dotted(owned: Path) -> bytes:
    """Return a pickle that reaches os.mkdir through a module of torch's checkpoints."""
    words = [text.encode() for text in ("torch.distributed.checkpoint.filesystem", "os.mkdir", str(owned))]
    module, name, argument = (b"\x8c" + bytes([len(word)]) + word for word in words)
    return b"\x80\x04" + module + name + b"\x93" + argument + b"\x85R."


def as_bytes(file: Path, owned: Path) -> None:
    """Declare the compressor's weights as pickles, like the settings of the optimizer, and replace all pickles."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    torch.save(Evil(owned), file.parent / "evil")
    found = pickle.loads(file.read_bytes())
    for name, about in found.state_dict_metadata.items():
        if isinstance(about, BytesStorageMetadata) or name.startswith("state_dict.compressor."):
            found.state_dict_metadata[name] = BytesStorageMetadata()
            found.storage_data[MetadataIndex(name)] = _StorageInfo("evil", 0, (file.parent / "evil").stat().st_size)
    file.write_bytes(pickle.dumps(found))


HOSTILE: dict[str, tuple[str, str, Callable[[Path, Path], Any]]] = {
    "optimizer of zero_2": ("zero_2", "*optim_states.pt", lambda file, owned: torch.save({"x": Evil(owned)}, file)),
    "model of zero_2": ("zero_2", "*model_states.pt", lambda file, owned: torch.save({"x": Evil(owned)}, file)),
    "optimizer of zero_3": ("zero_3", "*optim_states.pt", lambda file, owned: torch.save({"x": Evil(owned)}, file)),
    "universal": ("zero_2 universal", "fp32.pt", lambda file, owned: torch.save({"param": Evil(owned)}, file)),
    "meta of fsdp2": ("fsdp2", "meta.pt", lambda file, owned: torch.save({"x": Evil(owned)}, file)),
    "list of fsdp2": ("fsdp2", ".metadata", lambda file, owned: file.write_bytes(pickle.dumps(Evil(owned)))),
    "dotted list of fsdp2": ("fsdp2", ".metadata", lambda file, owned: file.write_bytes(dotted(owned))),
    "bytes of fsdp2": ("fsdp2", ".metadata", as_bytes),
}


@pytest.fixture
def hostile(runs: Runs, tmp_path: Path) -> Callable[[str], Path]:
    """Build a complete checkpoint that creates the folder ``owned`` if it is unpickled."""

    def build(case: str) -> Path:
        form, pattern, poison = HOSTILE[case]
        source, place = runs.uninterrupted(*FORMS[form.split()[0]])[0] / "last.ckpt", tmp_path / case / "last.ckpt"
        place.parent.mkdir()
        if "universal" in form:
            assert main(["checkpoint", "universal", str(source), "--out", str(place)]) == 0
        else:
            shutil.copytree(source, place)
        files = list(place.rglob(pattern))
        assert files
        for file in files:
            poison(file, tmp_path / "owned")
        seal(place)
        return place

    return build


def test_no_form_of_a_checkpoint_can_run_code(hostile: Callable[[str], Path], tmp_path: Path, capsys: Any) -> None:
    for case in HOSTILE:
        place = hostile(case)
        for verb in VERBS:
            assert main([*verb.split(), str(place), "--out", str(tmp_path / "out")]) == 2, (case, verb)
            assert str(place) in capsys.readouterr().err, (case, verb)
        assert main(["checkpoint", "list", str(place)]) in (0, 1), case
        assert not (tmp_path / "owned").exists() and not (tmp_path / "out").exists(), case


@pytest.mark.parametrize(
    ("case", "strategy"), [("optimizer of zero_2", ZERO_2), ("dotted list of fsdp2", FSDP2), ("bytes of fsdp2", FSDP2)]
)
def test_resuming_from_a_checkpoint_cannot_run_code(
    runs: Runs, hostile: Callable[[str], Path], tmp_path: Path, case: str, strategy: str
) -> None:
    run = runs.try_to(tmp_path / "run", strategy, 2, "--resume", str(hostile(case)), "--trainer.max_steps", "9")
    assert run.statuses == [2, 2], run.text()
    assert "framefold: error: " in run.text() and not (tmp_path / "owned").exists()


def test_these_payloads_run_code_when_unpickled(tmp_path: Path) -> None:
    for number, payload in enumerate((pickle.dumps(Evil(tmp_path / "0")), dotted(tmp_path / "1"))):
        pickle.loads(payload)
        assert (tmp_path / str(number)).is_dir()


def test_a_weight_named_like_a_path_writes_nothing_there(runs: Runs, tmp_path: Path, capsys: Any) -> None:
    source, place = runs.uninterrupted(ZERO_3, 2)[0] / "last.ckpt", tmp_path / "last.ckpt"
    shutil.copytree(source, place)
    for file in place.rglob("*model_states.pt"):
        with safe_deepspeed_load():
            state = torch.load(file, weights_only=True)
        state["param_shapes"][0] = {f"../../../{name}": shape for name, shape in state["param_shapes"][0].items()}
        torch.save(state, file)
    seal(place)
    assert main(["checkpoint", "universal", str(place), "--out", str(tmp_path / "a/b/out")]) == 2
    assert "which is not a valid name" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_folders_with_wildcards_in_their_names(runs: Runs, tmp_path: Path) -> None:
    source, place = runs.uninterrupted(ZERO_3, 2), tmp_path / "run [1] *+"
    shutil.copytree(source[0], place)
    assert main(["checkpoint", "universal", str(place), "--out", str(tmp_path / "any [a+b]?")]) == 0
    assert main(["checkpoint", "consolidate", str(place), "--out", str(tmp_path / "plain")]) == 0
    assert_contains(tmp_path / "plain/model.safetensors", exported_names(source[1]["end"])[0])
