"""Stages of training: the start of a run, LoRA in the host, checkpoints and exported folders with LoRA."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import framefold
from framefold.__main__ import main
from framefold.adapters.hosts.lora.digest import adapter_digest
from framefold.cli.export import export
from framefold.data.loading.loader import Batch, ResumableLoader
from framefold.data.synthetic.recipe import Recipe
from framefold.data.synthetic.stream import SyntheticStream
from framefold.errors import AdapterFileError, ConfigError, FramefoldError
from framefold.evaluation.ablation import ask as heldout
from framefold.evaluation.ablation.ablate import ablate
from framefold.evaluation.inspection.answer_run import Task
from framefold.evaluation.inspection.answer_run import run_answers as run_answer
from framefold.evaluation.inspection.source import lora_of
from framefold.evaluation.results.result_files import read_results
from framefold.training.frozen_host.batch import answer_questions, encode_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host
from framefold.training.lora import adapter_lora
from framefold.training.lora_settings import LoraSettings
from framefold.training.module import CompressorModule
from framefold.training.teacher import TeacherAttention, teacher_outputs

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice
CLUSTER = {"members": "cluster"}
VISION = r".*vision_tower.*(q_proj|v_proj)"


def batch() -> Batch:
    return Batch(tuple(Recipe((16, 16)).sample(i) for i in range(2)))


def module(host: Path, lora: Any = None, **settings: Any) -> CompressorModule:
    """A module with its host loaded."""
    trained = CompressorModule("fila", host=str(host), lora=lora, **settings)
    trained.configure_model()
    return trained


def fit(trained: CompressorModule, folder: Path, steps: int = 2) -> pl.Trainer:
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, num_sanity_val_steps=0, default_root_dir=folder, **quiet
    )
    trainer.fit(trained, ResumableLoader(SyntheticStream(Recipe((16, 20)), 8, 2)))
    return trainer


def scrambled(trained: CompressorModule) -> CompressorModule:
    """Give all trainable parameters random values, as after long training."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return trained.eval()


def logits(host: Host, compressor: Any) -> Tensor:
    with torch.no_grad():
        return answer_questions(host, compressor, encode_batch(host, batch().samples)).logits


def state(host: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in host.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def aligned(random_host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder of the first stage; tests must not change it."""
    folder = tmp_path_factory.mktemp("aligned")
    scrambled(module(random_host, params=CLUSTER)).compressor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sft_run(random_host: Path, aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A module of the second stage and the adapter folder exported from its checkpoint; tests must not change them."""
    folder = tmp_path_factory.mktemp("sft")
    trained = module(random_host, {"r": 2, "targets": ["q_proj", "v_proj"]}, start=str(aligned))
    trainer = fit(trained, folder, steps=1)
    scrambled(trained)
    trainer.save_checkpoint(folder / "last.ckpt")
    return trained, export(str(folder / "last.ckpt"), str(folder / "adapter"))


@pytest.fixture
def adapter(sft_run: tuple[Any, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sft_run[1], tmp_path / "adapter"))


def test_run_starts_with_the_weights_and_params_of_its_start(random_host: Path, aligned: Path) -> None:
    trained = module(random_host, start=str(aligned), budget=7)
    before = framefold.load(aligned)
    assert trained.compressor.params() == before.params() and trained.hparams["params"]["members"] == "cluster"
    assert same(dict(trained.compressor.state_dict()), dict(before.state_dict())) and trained.compressor.budget == 7
    assert trained.lora is None
    assert trained.compressor.training and not before.training, "a start is trained, what is loaded answers"


def test_settings_that_contradict_the_start_are_refused_before_the_host_is_loaded(
    random_host: Path, sft_run: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("framefold.training.module.load_host", lambda *a, **k: pytest.fail("the host was loaded"))
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"compressor": "storm"}, ConfigError, "holds fila, not storm"),
        ({"params": {"members": "similar"}}, ConfigError, "members is 'cluster', not 'similar'"),
        ({"params": {"memebrs": "cluster"}}, ConfigError, "members"),
        ({"start": "/no/adapter"}, AdapterFileError, "not an adapter folder"),
        ({"lora": {"r": 3}}, ConfigError, "r is 3, that of the start is 2"),
        ({"lora": {"alpha": 1.0}}, ConfigError, "alpha is 1.0, that of the start is 4"),
        ({"lora": {"targets": ["o_proj"]}}, ConfigError, "targets is .*o_proj.*, that of the start is"),
        ({"lora": {"rank": 3}}, ConfigError, "rank"),
        ({"lora": {"r": 0}}, ConfigError, "r must be 1 to"),
        ({"lora": {"dropout": 1.0}}, ConfigError, "dropout in"),
        ({"lora": {"targets": "(q_proj"}, "start": None}, ConfigError, "not a regular expression"),
    ]
    for settings, error, text in cases:
        with pytest.raises(error, match=text):
            CompressorModule(**{"compressor": "fila", "host": str(random_host), "start": str(sft_run[1]), **settings})
            pytest.fail(f"{settings} were accepted")


def test_targets_outside_the_language_model_are_refused(random_host: Path) -> None:
    for targets, text in ((["k_proj_"], "No modules|not found"), (VISION, "outside the language model")):
        with pytest.raises(ConfigError, match=text):
            module(random_host, {"targets": targets})


def test_sft_trains_only_the_compressor_and_lora(random_host: Path, aligned: Path, tmp_path: Path) -> None:
    trained = module(random_host, {"r": 2, "lr": 0.1}, start=str(aligned), lr=0.02, warmup=0.5, weight_decay=0.1)
    assert trained.lora is not None
    before = state(trained)
    rates: list[list[float]] = []
    trained.on_before_optimizer_step = lambda optimizer: rates.append([g["lr"] for g in optimizer.param_groups])
    trainer = fit(trained, tmp_path, steps=4)
    changed = {name for name, value in state(trained).items() if not torch.equal(value, before[name])}
    named = {n for n, p in trained.named_parameters() if n.startswith("compressor.") or "lora_" in n}
    assert changed == named == {n for n, p in trained.named_parameters() if p.requires_grad}
    assert all("language_model" in name for name in named if "lora_" in name)
    groups = trainer.optimizers[0].param_groups
    matrices = {id(p) for p in trained.lora.parameters}
    for group in groups:
        assert group["initial_lr"] == (0.1 if {id(p) for p in group["params"]} <= matrices else 0.02)
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])
    optimized = [id(p) for group in groups for p in group["params"]]
    assert sorted(optimized) == sorted(matrices | {id(p) for p in trained.compressor.parameters()})
    for rate, factor in zip(rates, (0.5, 1.0, 1.0), strict=False):  # one schedule for all groups
        assert rate == [group["initial_lr"] * factor for group in groups]


def test_lora_gets_a_gradient_if_the_loss_does_not_use_the_host(
    random_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = module(random_host, {"r": 2})
    own = {"answer": trained.compressor.static.square().sum()}
    monkeypatch.setattr("framefold.training.module.compute_losses", lambda *_: own)
    seen: list[bool] = []
    trained.on_after_backward = lambda: seen.extend(p.grad is not None for p in trained.parameters() if p.requires_grad)
    fit(trained, tmp_path, steps=1)
    assert len(seen) == 2 + 4 and all(seen)


def test_only_the_dropout_of_lora_changes_its_mode(random_host: Path) -> None:
    trained = module(random_host, {"dropout": 0.5})

    def on() -> set[str]:
        return {name.rpartition(".")[2] for name, part in trained.model.named_modules() if part.training}

    assert on() == {"default"} and trained.training  # the name that PEFT gives the adapter, of each dropout
    assert all("lora_dropout" in name for name, part in trained.model.named_modules() if part.training)
    trained.eval()
    assert on() == set()
    trained.train()
    assert on() == {"default"}


def test_initial_lora_changes_no_answer(random_host: Path) -> None:
    bare = module(random_host).eval()
    trained = module(random_host, {"targets": r".*language_model.*(proj)"}).eval()
    assert torch.equal(logits(trained.host, trained.compressor), logits(bare.host, bare.compressor))


def test_teacher_is_the_host_without_lora(random_host: Path) -> None:
    trained, bare = scrambled(module(random_host, {"r": 2})), load_host(random_host)
    assert not torch.equal(logits(trained.host, trained.compressor), logits(bare, trained.compressor))
    trained.lora.parameters[0].requires_grad_(False)  # type: ignore[union-attr]
    flags = [parameter.requires_grad for parameter in trained.parameters()]
    encoded = encode_batch(trained.host, batch().samples)
    for attention in (None, TeacherAttention()):
        ours, theirs = (teacher_outputs(host, encoded, attention) for host in (trained.host, bare))
        assert torch.equal(ours.logits, theirs.logits)
        assert len(ours.attention) == len(theirs.attention) and all(map(torch.equal, ours.attention, theirs.attention))
        assert [parameter.requires_grad for parameter in trained.parameters()] == flags
        assert not torch.equal(logits(trained.host, trained.compressor), logits(bare, trained.compressor))


def test_checkpoint_holds_only_compressor_and_lora_and_loads_without_the_start(
    random_host: Path, adapter: Path, tmp_path: Path
) -> None:
    trained = module(random_host, {"dropout": 0.3}, start=str(adapter), lr=0.1)
    trainer = fit(trained, tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    shutil.rmtree(adapter)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    keys = set(saved["state_dict"])
    assert {key.partition(".")[0] for key in keys} == {"compressor", "lora"}
    assert len(keys) == 2 + len(trained.lora.parameters)  # type: ignore[union-attr]
    assert len(saved["optimizer_states"][0]["state"]) == len(keys)
    assert saved["start"] == str(adapter)
    again = CompressorModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert same(state(again), state(trained)) and again.hparams["lora"] == trained.hparams["lora"]
    assert again.hparams["lora"]["r"] == 2 and again.hparams["lora"]["dropout"] == 0.3
    for lora in (None, {"r": 3}, {"r": 2, "targets": ["q_proj"]}):
        with pytest.raises(AdapterFileError, match="does not fit"):
            module(random_host, lora, params=CLUSTER).on_load_checkpoint(copy.deepcopy(saved))
    with pytest.raises(AdapterFileError, match="does not fit"):
        without = {key: value for key, value in saved["state_dict"].items() if "lora_B" not in key}
        module(random_host, {"r": 2}, params=CLUSTER).on_load_checkpoint({**saved, "state_dict": without})


def test_resumed_sft_equals_an_uninterrupted_run(
    random_host: Path, shards: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["framefold"])
    words = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu", "--config"]
    words += ["stage/sft", "--model.params", "null", "--model.start", str(aligned), "--model.host", str(random_host)]
    words += ["--data.shards", str(shards), "--data.batch_size", "2", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.enable_progress_bar", "false", "--model.lora.dropout", "0.4", "--last.every", "3"]
    words += ["--trainer.max_steps", "7", "--trainer.accumulate_grad_batches", "2"]

    def run(name: str, *more: str) -> dict[str, Any]:
        where = ["--trainer.default_root_dir", str(tmp_path / name)]
        assert main(["fit", *words, *where, *more]) == 0
        return torch.load(tmp_path / name / "version_0/checkpoints/last.ckpt", weights_only=True)

    uninterrupted = run("whole")
    real = CompressorModule.training_step

    def interrupted(self: CompressorModule, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == 5:
            raise KeyboardInterrupt
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(CompressorModule, "training_step", interrupted)
        assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "half")]) == 130
    resumed = run("again", "--ckpt_path", str(tmp_path / "half/version_0/checkpoints/last.ckpt"))
    assert same(resumed["state_dict"], uninterrupted["state_dict"])
    assert resumed["global_step"] == uninterrupted["global_step"] == 7
    assert any("lora_B" in key and bool(value.any()) for key, value in resumed["state_dict"].items())


def test_next_stage_continues_with_the_lora_of_its_start(random_host: Path, sft_run: tuple[Any, Path]) -> None:
    trained, folder = sft_run
    following = module(random_host, {"lr": 1e-5, "dropout": 0.0}, start=str(folder))
    assert following.lora is not None and following.lora.settings.r == 2 and following.lora.settings.lr == 1e-5
    assert same(dict(following.lora.state()), dict(trained.lora.state()))
    assert torch.equal(logits(following.host, following.compressor), logits(trained.host, trained.compressor))
    inherited = module(random_host, start=str(folder))
    assert inherited.lora is not None and len(inherited.lora.parameters) == len(trained.lora.parameters) == 4


def test_exported_folder_gives_the_trained_host_however_loaded(random_host: Path, sft_run: tuple[Any, Path]) -> None:
    trained, folder = sft_run
    expected = logits(trained.host, trained.compressor)
    host = load_host(random_host)
    with pytest.warns(UserWarning, match="framefold.load_peft"):
        compressor = framefold.load(folder).eval()
    assert not torch.equal(logits(host, compressor), expected)
    with adapter_lora(host, folder, random_host):  # what the ablation does
        assert torch.equal(logits(host, compressor), expected)
    stock = peft.PeftModel.from_pretrained(load_host(random_host).model, folder / "lora")
    assert torch.equal(logits(replace(host, model=stock.get_base_model()), compressor), expected)
    both = framefold.load_peft(load_host(random_host).model, folder).get_base_model()
    framefold.detach(both)
    assert torch.equal(logits(replace(host, model=both), compressor), expected)
    config = json.loads((folder / "config.json").read_text())
    assert config["lora"] is True and config["training"]["lora"]["r"] == 2 and config["training"]["start"]


def test_load_peft_and_save_peft_keep_an_exported_folder(
    random_host: Path, sft_run: tuple[Any, Path], tmp_path: Path
) -> None:
    folder = sft_run[1]
    model = framefold.load_peft(load_host(random_host).model, folder)
    framefold.save_peft(model, tmp_path / "again")
    for file in ("model.safetensors", "lora/adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    again = module(random_host, start=str(tmp_path / "again"))
    assert again.lora is not None and again.lora.settings.targets == sft_run[0].lora.settings.targets


def test_export_without_lora_removes_earlier_lora(random_host: Path, adapter: Path, tmp_path: Path) -> None:
    trained = module(random_host)
    fit(trained, tmp_path, steps=1).save_checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path / "last.ckpt"), str(adapter))
    assert not list((adapter / "lora").iterdir())
    assert module(random_host, start=str(adapter)).lora is None


def test_host_is_restored_after_lora(random_host: Path, adapter: Path) -> None:
    host = load_host(random_host)
    host.model.lm_head.requires_grad_(True)
    before, names = state(host.model), set(host.model.__dict__)
    modules = {name: (id(part), part.training) for name, part in host.model.named_modules()}
    with pytest.raises(KeyboardInterrupt), adapter_lora(host, adapter, random_host):
        assert not same(state(host.model), before)
        raise KeyboardInterrupt
    assert same(state(host.model), before) and set(host.model.__dict__) == names
    assert {name: (id(part), part.training) for name, part in host.model.named_modules()} == modules
    assert [n for n, p in host.model.named_parameters() if p.requires_grad] == [
        n for n, p in host.model.named_parameters() if p is host.model.lm_head.weight
    ]


FEW: dict[str, Any] = {"videos": 2, "frames": 16, "budgets": [0.25], "oracle": False}


@pytest.fixture(scope="module")
def ablations(
    random_host: Path, aligned: Path, sft_run: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Tensor]]:
    """Results of an adapter without LoRA in ``bare``, and with one that has LoRA in ``both``; logits of the latter."""
    folder, recorded = tmp_path_factory.mktemp("ablations"), list[Tensor]()
    few = FEW | {"host": str(random_host), "compressors": ["uniform", "scene_mean"]}
    real = heldout.evaluate_questions

    def record(host: Host, compressor: Any, *more: Any) -> Any:
        recorded.append(logits(host, compressor))
        return real(host, compressor, *more)

    ablate(str(folder / "bare"), adapters=[str(aligned)], **few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("framefold.evaluation.ablation.runner.evaluate_questions", record)
        ablate(str(folder / "both"), adapters=[str(sft_run[1]), str(aligned)], **few)
    return folder, recorded


def test_ablation_uses_the_lora_of_an_adapter_only_for_its_own_results(
    ablations: tuple[Path, list[Tensor]], aligned: Path, sft_run: tuple[Any, Path]
) -> None:
    folder = ablations[0]
    results = {result["compressor"]: result for result in read_results(folder / "both")}
    for result in read_results(folder / "bare"):
        assert results[result["compressor"]]["answers"] == result["answers"]
        assert results[result["compressor"]]["settings"] == result["settings"]
    assert set(results) == {"fila", "fila (LoRA)", "uniform", "scene_mean", "identity"}
    report = (folder / "both" / "report.md").read_text()
    assert "| fila (LoRA) - fila |" in report and "| fila (LoRA) - scene_mean |" in report
    settings = results["fila (LoRA)"]["settings"]
    assert settings["adapter"] == adapter_digest(sft_run[1]) != results["fila"]["settings"]["adapter"]
    assert settings["params"]["lora"]["r"] == 2 and settings["params"]["members"] == "cluster"
    assert results["scene_mean"]["settings"]["params"]["members"] == "cluster"


def test_ablation_with_lora_gives_the_logits_of_the_trained_host(
    ablations: tuple[Path, list[Tensor]], random_host: Path, sft_run: tuple[Any, Path]
) -> None:
    recorded, host = ablations[1], load_host(random_host)
    compressor = framefold.load(sft_run[1], budget=0.25).eval()
    with adapter_lora(host, sft_run[1], random_host):
        expected = logits(host, compressor)
    assert [place for place, value in enumerate(recorded) if torch.equal(value, expected)] == [0]
    assert any(torch.equal(value, logits(host, framefold.build("uniform", 0.25))) for value in recorded[1:])


def test_ablation_with_other_lora_computes_only_its_result(
    ablations: tuple[Path, list[Tensor]], random_host: Path, aligned: Path, adapter: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    few = FEW | {"host": str(random_host), "compressors": ["uniform", "scene_mean"]}
    out = Path(shutil.copytree(ablations[0] / "both", tmp_path / "out"))
    file = adapter / "lora" / "adapter_model.safetensors"
    save_file({name: value * 2 for name, value in load_file(file).items()}, file)
    ablate(str(out), adapters=[str(adapter), str(aligned)], **few)
    assert "5 results, 4 of them exist already" in capsys.readouterr().out
    other = Path(shutil.copytree(adapter, tmp_path / "other"))
    _json("config.json", training={"seed": 1})(other)
    _json("lora/adapter_config.json", lora_alpha=9)(other)
    with pytest.raises(ConfigError, match=r"adapter of fila \(LoRA\) have different parameters"):
        ablate(str(tmp_path / "no"), adapters=[str(adapter), str(other)], **few)
    with pytest.raises(ConfigError, match=r"both fila \(LoRA\) trained with seed"):
        ablate(str(tmp_path / "no"), adapters=[str(adapter), str(adapter)], **few)


def _json(file: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **fields}))

    return change


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def _pickled(folder: Path) -> None:
    (folder / "lora" / "adapter_model.safetensors").unlink()
    (folder / "lora" / "adapter_model.bin").write_bytes(pickle.dumps(Evil(folder / "owned")))


PEFT_FILE = "lora/adapter_config.json"
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle only": (_pickled, "missing or empty"),
    "no lora": (lambda folder: shutil.rmtree(folder / "lora"), "not an adapter folder"),
    "other targets": (_json(PEFT_FILE, target_modules=["o_proj"]), "does not fit|o_proj"),
    "all layers": (_json(PEFT_FILE, target_modules="all-linear"), "does not fit|targets"),
    "a module of the host": (_json(PEFT_FILE, modules_to_save=["lm_head"]), "lm_head"),
    "imports": (_json(PEFT_FILE, megatron_config={"a": 1}, megatron_core="os"), "not supported"),
    "another method": (_json(PEFT_FILE, peft_type="IA3"), "not 'LORA'"),
    "rank of another": (_json(PEFT_FILE, r=3), "does not fit"),
    "another kind of host": (_json("config.json", host="qwen2_vl"), "trained in a 'qwen2_vl' host"),
    "a host of another width": (_json("config.json", width=64), "of width 64"),
    "a host of other weights": (_json("config.json", host_weights="0" * 64), "whose weights are not those"),
}


def test_hostile_or_foreign_lora_folder_is_refused(
    random_host: Path, sft_run: tuple[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "framefold.evaluation.ablation.runner.AblationRunner.run", lambda self: pytest.fail("videos were encoded")
    )
    few: dict[str, Any] = {"host": str(random_host), "videos": 2, "frames": 16, "compressors": ["uniform"]}
    for number, (name, (damage, text)) in enumerate(HOSTILE.items()):
        folder = Path(shutil.copytree(sft_run[1], tmp_path / str(number)))
        damage(folder)
        with pytest.raises(FramefoldError, match=text):
            module(random_host, start=str(folder))
            pytest.fail(f"{name}: training accepts it")
        with pytest.raises(AdapterFileError, match=text):
            ablate(str(tmp_path / "out"), adapters=[str(folder)], **few)
            pytest.fail(f"{name}: the ablation accepts it")
        assert not (folder / "owned").exists() and not (tmp_path / "out").exists(), name


def test_lora_in_the_vision_encoder_is_refused(random_host: Path, adapter: Path) -> None:
    host = load_host(random_host)
    model = peft.get_peft_model(host.model, peft.LoraConfig(r=2, target_modules=VISION))
    shutil.rmtree(adapter / "lora")
    model.save_pretrained(adapter / "lora")
    with pytest.raises(ConfigError, match="outside the language model"):
        module(random_host, start=str(adapter))
    host = load_host(random_host)
    before = state(host.model)
    with pytest.raises(AdapterFileError, match="outside the language model"), adapter_lora(host, adapter, random_host):
        pass
    assert same(state(host.model), before)


def test_answer_compares_lora_with_the_host_without_it(random_host: Path, adapter: Path) -> None:
    assert lora_of("fila") is None and lora_of(str(adapter)) is not None
    host = load_host(random_host)
    with_lora: list[bool] = []
    hook = host.model.model.language_model.register_forward_pre_hook(
        lambda *_: with_lora.append(bool(getattr(host.model, "peft_config", None)))
    )
    encoded = encode_batch(host, batch().samples[:1])
    pixels = host.pixel_values(batch().samples[0].frames.numpy())
    question = encoded.rows.input_ids[:1, : int(encoded.rows.attention_mask[0].sum()) - 1]
    ids = torch.cat([encoded.inputs["input_ids"], question], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}

    class Processor:
        tokenizer = host.tokenizer

    before = state(host.model)
    task = Task(host.model, Processor(), inputs, encoded.times[0], "preserve", 1, lora_of(str(adapter)))
    result = run_answer(task, framefold.build("uniform", 0.25), compare=True, repeats=1)
    hook.remove()
    assert result.compressed.name == "uniform, budget 0.25 (LoRA)" and result.full and result.full.name == "all tokens"
    assert {*with_lora} == {True, False} and with_lora[0] is True and same(state(host.model), before)


def test_lora_settings_may_be_an_object(random_host: Path) -> None:
    trained = module(random_host, LoraSettings(r=1, alpha=3.0, targets=["o_proj"]))
    assert trained.hparams["lora"]["r"] == 1 and len(trained.lora.parameters) == 2  # type: ignore[union-attr]
