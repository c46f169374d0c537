"""Stages of a training: what it starts from, LoRA on the host, what is kept of both, and how both are used."""

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
from framefold.evaluation.inspection.answer_run import Task, lora_of
from framefold.evaluation.inspection.answer_run import run_answers as run_answer
from framefold.evaluation.results.cells import read_cells
from framefold.training.frozen_host.ask import answer_questions, encode_batch
from framefold.training.frozen_host.host import Host
from framefold.training.frozen_host.load import load_host
from framefold.training.lora import tuned
from framefold.training.lora_settings import LoraSettings
from framefold.training.module import CompressorModule
from framefold.training.teacher import teach

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # Lightning's advice
CLUSTER = {"members": "cluster"}


def batch() -> Batch:
    return Batch(tuple(Recipe((16, 16)).sample(i) for i in range(2)))


def module(host: Path, lora: Any = None, **settings: Any) -> CompressorModule:
    """With a host, in the smallest size."""
    made = CompressorModule("fila", host=str(host), lora=lora, **settings)
    made.configure_model()
    return made


def fit(made: CompressorModule, folder: Path, steps: int = 2) -> pl.Trainer:
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, num_sanity_val_steps=0, default_root_dir=folder, **quiet
    )
    trainer.fit(made, ResumableLoader(SyntheticStream(Recipe((16, 20)), 8, 2)))
    return trainer


def scrambled(made: CompressorModule) -> CompressorModule:
    """As if trained for long: everything that is trained gets values of its own."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made.eval()


def logits(host: Host, compressor: Any) -> Tensor:
    with torch.no_grad():
        return answer_questions(host, compressor, encode_batch(host, batch().samples)).logits


def state(host: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in host.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def aligned(random_host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder of the first stage; do not change it."""
    folder = tmp_path_factory.mktemp("aligned")
    scrambled(module(random_host, params=CLUSTER)).compressor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tuned_run(random_host: Path, aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A module of the second stage and the adapter folder that became of its checkpoint; do not change them."""
    folder = tmp_path_factory.mktemp("tuned")
    made = module(random_host, {"r": 2, "targets": ["q_proj", "v_proj"]}, start=str(aligned))
    trainer = fit(made, folder, steps=1)
    scrambled(made)
    trainer.save_checkpoint(folder / "last.ckpt")
    return made, export(str(folder / "last.ckpt"), str(folder / "adapter"))


@pytest.fixture
def ours(tuned_run: tuple[Any, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tuned_run[1], tmp_path / "ours"))


def test_a_training_starts_with_the_weights_and_params_of_its_start(random_host: Path, aligned: Path) -> None:
    made = module(random_host, start=str(aligned), budget=7)
    before = framefold.load(aligned)
    assert made.compressor.params() == before.params() and made.hparams["params"]["members"] == "cluster"
    assert same(dict(made.compressor.state_dict()), dict(before.state_dict())) and made.compressor.budget == 7
    assert made.lora is None


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"compressor": "storm"}, ConfigError, "holds fila, the training is of storm"),
        ({"params": {"members": "similar"}}, ConfigError, "members is 'cluster', not 'similar'"),
        ({"params": {"memebrs": "cluster"}}, ConfigError, "members"),
        ({"start": "/no/adapter"}, AdapterFileError, "no adapter folder"),
        ({"lora": {"r": 3}}, ConfigError, "r is 3, that of the start is 2"),
        ({"lora": {"alpha": 1.0}}, ConfigError, "alpha is 1.0, that of the start is 4"),
        ({"lora": {"targets": ["o_proj"]}}, ConfigError, "targets is .*o_proj.*, that of the start is"),
        ({"lora": {"rank": 3}}, ConfigError, "rank"),
        ({"lora": {"r": 0}}, ConfigError, "r must be 1 to"),
        ({"lora": {"dropout": 1.0}}, ConfigError, "dropout in"),
        ({"lora": {"targets": "(q_proj"}, "start": None}, ConfigError, "no regular expression"),
    ],
)
def test_a_start_that_does_not_go_with_the_settings_is_refused_before_the_host_is_loaded(
    settings: dict, error: type, text: str, random_host: Path, ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "framefold.training.frozen_host.load.load_host", lambda host: pytest.fail("the host was loaded")
    )
    with pytest.raises(error, match=text):
        CompressorModule(**{"compressor": "fila", "host": str(random_host), "start": str(ours), **settings})


@pytest.mark.parametrize(
    ("targets", "text"),
    [(["k_proj_"], "No modules|not found"), (r".*vision_tower.*q_proj", "outside of the language model")],
)
def test_targets_outside_of_the_language_model_are_refused(random_host: Path, targets: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        module(random_host, {"targets": targets})


def test_sft_trains_the_compressor_and_lora_and_nothing_else(random_host: Path, aligned: Path, tmp_path: Path) -> None:
    made = module(random_host, {"r": 2, "lr": 0.1}, start=str(aligned), lr=0.02, warmup=0.5, weight_decay=0.1)
    assert made.lora is not None
    before = state(made)
    rates: list[list[float]] = []
    made.on_before_optimizer_step = lambda optimizer: rates.append([g["lr"] for g in optimizer.param_groups])
    trainer = fit(made, tmp_path, steps=4)
    changed = {name for name, value in state(made).items() if not torch.equal(value, before[name])}
    named = {n for n, p in made.named_parameters() if n.startswith("compressor.") or "lora_" in n}
    assert changed == named == {n for n, p in made.named_parameters() if p.requires_grad}
    assert all("language_model" in name for name in named if "lora_" in name)
    groups = trainer.optimizers[0].param_groups
    matrices = {id(p) for p in made.lora.parameters}
    for group in groups:
        assert group["initial_lr"] == (0.1 if {id(p) for p in group["params"]} <= matrices else 0.02)
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.1) for p in group["params"])
    optimized = [id(p) for group in groups for p in group["params"]]
    assert sorted(optimized) == sorted(matrices | {id(p) for p in made.compressor.parameters()})
    for rate, factor in zip(rates, (0.5, 1.0, 1.0), strict=False):  # one schedule for all groups
        assert rate == [group["initial_lr"] * factor for group in groups]


def test_every_matrix_gets_a_gradient_even_if_the_loss_leaves_the_host_out(
    random_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = module(random_host, {"r": 2})
    own = {"answer": made.compressor.static.square().sum()}
    monkeypatch.setattr("framefold.training.losses.loss_parts", lambda *_: own)
    seen: list[bool] = []
    made.on_after_backward = lambda: seen.extend(p.grad is not None for p in made.parameters() if p.requires_grad)
    fit(made, tmp_path, steps=1)
    assert len(seen) == 2 + 4 and all(seen)


def test_of_the_host_only_loras_dropout_changes_its_mode(random_host: Path) -> None:
    made = module(random_host, {"dropout": 0.5})

    def on() -> set[str]:
        return {name.rpartition(".")[2] for name, part in made.model.named_modules() if part.training}

    assert on() == {"default"} and made.training  # the name that PEFT gives the adapter, of each dropout
    assert all("lora_dropout" in name for name, part in made.model.named_modules() if part.training)
    made.eval()
    assert on() == set()
    made.train()
    assert on() == {"default"}


def test_fresh_lora_changes_no_answer(random_host: Path) -> None:
    bare = module(random_host).eval()
    made = module(random_host, {"targets": r".*language_model.*(proj)"}).eval()
    assert torch.equal(logits(made.host, made.compressor), logits(bare.host, bare.compressor))


@pytest.mark.parametrize("attention", [False, True])
def test_the_teacher_is_the_host_without_lora(random_host: Path, attention: bool) -> None:
    made, bare = scrambled(module(random_host, {"r": 2})), load_host(random_host)
    assert not torch.equal(logits(made.host, made.compressor), logits(bare, made.compressor))
    made.lora.parameters[0].requires_grad_(False)  # type: ignore[union-attr]
    flags = [parameter.requires_grad for parameter in made.parameters()]
    ours, theirs = (teach(host, encode_batch(host, batch().samples), attention) for host in (made.host, bare))
    assert torch.equal(ours.logits, theirs.logits)
    assert len(ours.attention) == len(theirs.attention) and all(map(torch.equal, ours.attention, theirs.attention))
    assert [parameter.requires_grad for parameter in made.parameters()] == flags
    assert not torch.equal(logits(made.host, made.compressor), logits(bare, made.compressor))


def test_a_checkpoint_holds_compressor_and_lora_alone_and_loads_without_the_start(
    random_host: Path, ours: Path, tmp_path: Path
) -> None:
    made = module(random_host, {"dropout": 0.3}, start=str(ours), lr=0.1)
    trainer = fit(made, tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    shutil.rmtree(ours)
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    keys = set(saved["state_dict"])
    assert {key.partition(".")[0] for key in keys} == {"compressor", "lora"}
    assert len(keys) == 2 + len(made.lora.parameters)  # type: ignore[union-attr]
    assert len(saved["optimizer_states"][0]["state"]) == len(keys)
    assert saved["start"] == str(ours)
    again = CompressorModule.load_from_checkpoint(tmp_path / "a.ckpt")
    assert same(state(again), state(made)) and again.hparams["lora"] == made.hparams["lora"]
    assert again.hparams["lora"]["r"] == 2 and again.hparams["lora"]["dropout"] == 0.3
    for lora in (None, {"r": 3}, {"r": 2, "targets": ["q_proj"]}):
        with pytest.raises(AdapterFileError, match="does not fit"):
            module(random_host, lora, params=CLUSTER).on_load_checkpoint(copy.deepcopy(saved))
    with pytest.raises(AdapterFileError, match="does not fit"):
        without = {key: value for key, value in saved["state_dict"].items() if "lora_B" not in key}
        module(random_host, {"r": 2}, params=CLUSTER).on_load_checkpoint({**saved, "state_dict": without})


@pytest.mark.parametrize("extra", [[], ["--trainer.accumulate_grad_batches", "2"]])
def test_an_interrupted_sft_ends_with_the_same_weights(
    random_host: Path, shards: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["framefold"])
    words = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu", "--config"]
    words += ["stage/sft", "--model.params", "null", "--model.start", str(aligned), "--model.host", str(random_host)]
    words += ["--data.shards", str(shards), "--data.batch_size", "2", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.enable_progress_bar", "false", "--model.lora.dropout", "0.4", "--last.every", "3"]
    words += ["--trainer.max_steps", "7", *extra]

    def run(name: str, *more: str) -> dict[str, Any]:
        where = ["--trainer.default_root_dir", str(tmp_path / name)]
        assert main(["fit", *words, *where, *more]) == 0
        return torch.load(tmp_path / name / "version_0/checkpoints/last.ckpt", weights_only=True)

    whole = run("whole")
    real = CompressorModule.training_step

    def interrupted(self: CompressorModule, batch: Batch, batch_idx: int) -> Tensor:
        if self.global_step == 5:
            raise KeyboardInterrupt
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(CompressorModule, "training_step", interrupted)
        assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "half")]) == 130
    again = run("again", "--ckpt_path", str(tmp_path / "half/version_0/checkpoints/last.ckpt"))
    assert same(again["state_dict"], whole["state_dict"]) and again["global_step"] == whole["global_step"] == 7
    assert any("lora_B" in key and bool(value.any()) for key, value in whole["state_dict"].items())


def test_the_next_stage_goes_on_with_lora_of_its_start(random_host: Path, tuned_run: tuple[Any, Path]) -> None:
    made, folder = tuned_run
    following = module(random_host, {"lr": 1e-5, "dropout": 0.0}, start=str(folder))
    assert following.lora is not None and following.lora.settings.r == 2 and following.lora.settings.lr == 1e-5
    assert same(dict(following.lora.state()), dict(made.lora.state()))
    assert torch.equal(logits(following.host, following.compressor), logits(made.host, made.compressor))
    inherited = module(random_host, start=str(folder))
    assert inherited.lora is not None and len(inherited.lora.parameters) == len(made.lora.parameters) == 4


def test_an_exported_folder_is_the_trained_host_everywhere(random_host: Path, tuned_run: tuple[Any, Path]) -> None:
    made, folder = tuned_run
    wanted = logits(made.host, made.compressor)
    host = load_host(random_host)
    with pytest.warns(UserWarning, match="framefold.load_peft"):
        compressor = framefold.load(folder).eval()
    assert not torch.equal(logits(host, compressor), wanted)
    with tuned(host, folder, random_host):  # what the ablation does
        assert torch.equal(logits(host, compressor), wanted)
    stock = peft.PeftModel.from_pretrained(load_host(random_host).model, folder / "lora")
    assert torch.equal(logits(replace(host, model=stock.get_base_model()), compressor), wanted)
    both = framefold.load_peft(load_host(random_host).model, folder).get_base_model()
    framefold.detach(both)
    assert torch.equal(logits(replace(host, model=both), compressor), wanted)
    config = json.loads((folder / "config.json").read_text())
    assert config["lora"] is True and config["training"]["lora"]["r"] == 2 and config["training"]["start"]


def test_an_exported_folder_is_loaded_and_saved_by_load_peft_and_save_peft(
    random_host: Path, tuned_run: tuple[Any, Path], tmp_path: Path
) -> None:
    folder = tuned_run[1]
    model = framefold.load_peft(load_host(random_host).model, folder)
    framefold.save_peft(model, tmp_path / "again")
    for file in ("model.safetensors", "lora/adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()
    again = module(random_host, start=str(tmp_path / "again"))
    assert again.lora is not None and again.lora.settings.targets == tuned_run[0].lora.settings.targets


def test_an_export_without_lora_leaves_none_of_an_earlier_one(random_host: Path, ours: Path, tmp_path: Path) -> None:
    made = module(random_host)
    fit(made, tmp_path, steps=1).save_checkpoint(tmp_path / "last.ckpt")
    export(str(tmp_path / "last.ckpt"), str(ours))
    assert not list((ours / "lora").iterdir())
    assert module(random_host, start=str(ours)).lora is None


def test_a_host_is_what_it_was_after_lora(random_host: Path, ours: Path) -> None:
    host = load_host(random_host)
    host.model.lm_head.requires_grad_(True)
    before, names = state(host.model), set(host.model.__dict__)
    modules = {name: (id(part), part.training) for name, part in host.model.named_modules()}
    with pytest.raises(KeyboardInterrupt), tuned(host, ours, random_host):
        assert not same(state(host.model), before)
        raise KeyboardInterrupt
    assert same(state(host.model), before) and set(host.model.__dict__) == names
    assert {name: (id(part), part.training) for name, part in host.model.named_modules()} == modules
    assert [n for n, p in host.model.named_parameters() if p.requires_grad] == [
        n for n, p in host.model.named_parameters() if p is host.model.lm_head.weight
    ]


def test_lora_of_an_adapter_is_in_the_host_for_its_own_cells_only(
    random_host: Path, aligned: Path, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"host": str(random_host), "videos": 2, "frames": 16, "budgets": [0.25], "oracle": False}
    few["compressors"] = ["uniform", "scene_mean"]
    ablate(str(tmp_path / "bare"), adapters=[str(aligned)], **few)
    ablate(str(tmp_path / "out"), adapters=[str(ours), str(aligned)], **few)
    cells = {cell["compressor"]: cell for cell in read_cells(tmp_path / "out")}
    for cell in read_cells(tmp_path / "bare"):
        assert cells[cell["compressor"]]["answers"] == cell["answers"]
        assert cells[cell["compressor"]]["settings"] == cell["settings"]
    assert set(cells) == {"fila", "fila (LoRA)", "uniform", "scene_mean", "identity"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| fila (LoRA) - fila |" in report and "| fila (LoRA) - scene_mean |" in report
    mine = cells["fila (LoRA)"]["settings"]
    assert mine["adapter"] == adapter_digest(ours) != cells["fila"]["settings"]["adapter"]
    assert mine["params"]["lora"]["r"] == 2 and mine["params"]["members"] == "cluster"
    assert cells["scene_mean"]["settings"]["params"]["members"] == "cluster"

    file = ours / "lora" / "adapter_model.safetensors"
    save_file({name: value * 2 for name, value in load_file(file).items()}, file)
    capsys.readouterr()
    ablate(str(tmp_path / "out"), adapters=[str(ours), str(aligned)], **few)
    assert "5 cells, 4 already there" in capsys.readouterr().out, "other LoRA is another cell"
    other = Path(shutil.copytree(ours, tmp_path / "other"))
    _json("config.json", training={"seed": 1})(other)
    _json("lora/adapter_config.json", lora_alpha=9)(other)
    with pytest.raises(ConfigError, match=r"adapter of fila \(LoRA\) have different parameters"):
        ablate(str(tmp_path / "no"), adapters=[str(ours), str(other)], **few)
    with pytest.raises(ConfigError, match=r"both fila \(LoRA\) trained with seed"):
        ablate(str(tmp_path / "no"), adapters=[str(ours), str(ours)], **few)


def test_the_cells_of_lora_are_the_answers_of_the_trained_host(
    random_host: Path, tuned_run: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made, folder = tuned_run
    seen: list[Tensor] = []

    def put(host: Host, compressor: Any, batches: Any, drill: int) -> Any:
        seen.append(logits(host, compressor))
        return real(host, compressor, batches, drill)

    real = heldout.evaluate_questions
    monkeypatch.setattr("framefold.evaluation.ablation.ask.evaluate_questions", put)
    made.compressor.budget = 0.25
    small: dict[str, Any] = {"videos": 2, "frames": 16, "budgets": [0.25], "oracle": False, "compressors": ["uniform"]}
    ablate(str(tmp_path), str(random_host), adapters=[str(folder)], **small)
    made.compressor.budget = made.hparams["budget"]
    bare = load_host(random_host)
    made_alone = framefold.load(folder, budget=0.25).eval()
    with tuned(bare, folder, random_host):
        wanted = logits(bare, made_alone)
    assert torch.equal(seen[0], wanted)
    assert torch.equal(seen[1], logits(bare, framefold.build("uniform", 0.25)))


def _json(file: str, **fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**content, **fields}))

    return change


class Evil:
    """Runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def _pickled(folder: Path) -> None:
    (folder / "lora" / "adapter_model.safetensors").unlink()
    (folder / "lora" / "adapter_model.bin").write_bytes(pickle.dumps(Evil(folder / "owned")))


VISION = r".*vision_tower.*(q_proj|v_proj)"
PEFT_FILE = "lora/adapter_config.json"
HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pickle only": (_pickled, "missing or empty"),
    "no lora": (lambda folder: shutil.rmtree(folder / "lora"), "no adapter folder"),
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


@pytest.mark.parametrize(("damage", "text"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_or_foreign_lora_folder_is_refused_and_nothing_of_it_run(
    damage: Callable[[Path], Any], text: str, random_host: Path, ours: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    damage(ours)
    with pytest.raises(FramefoldError, match=text):
        module(random_host, start=str(ours))
    monkeypatch.setattr(
        "framefold.evaluation.ablation.runner.Grid.run", lambda self: pytest.fail("videos were encoded")
    )
    few: dict[str, Any] = {"host": str(random_host), "videos": 2, "frames": 16, "compressors": ["uniform"]}
    with pytest.raises(AdapterFileError, match=text):
        ablate(str(tmp_path / "out"), adapters=[str(ours)], **few)
    assert not (ours / "owned").exists() and not (tmp_path / "out").exists()


def test_lora_in_the_vision_encoder_is_refused(random_host: Path, ours: Path) -> None:
    host = load_host(random_host)
    model = peft.get_peft_model(host.model, peft.LoraConfig(r=2, target_modules=VISION))
    shutil.rmtree(ours / "lora")
    model.save_pretrained(ours / "lora")
    with pytest.raises(ConfigError, match="outside of the language model"):
        module(random_host, start=str(ours))
    host = load_host(random_host)
    before = state(host.model)
    with pytest.raises(AdapterFileError, match="outside of the language model"), tuned(host, ours, random_host):
        pass
    assert same(state(host.model), before)


def test_answer_runs_the_host_with_lora_and_all_tokens_without(random_host: Path, ours: Path) -> None:
    assert lora_of("fila") is None and lora_of(str(ours)) is not None
    host = load_host(random_host)
    seen: list[bool] = []
    hook = host.model.model.language_model.register_forward_pre_hook(
        lambda *_: seen.append(bool(getattr(host.model, "peft_config", None)))
    )
    asked = encode_batch(host, batch().samples[:1])
    pixels = host.pixel_values(batch().samples[0].frames.numpy())
    question = asked.rows.input_ids[:1, : int(asked.rows.attention_mask[0].sum()) - 1]
    ids = torch.cat([asked.inputs["input_ids"], question], 1)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels}

    class Processor:
        tokenizer = host.tokenizer

    before = state(host.model)
    task = Task(host.model, Processor(), inputs, asked.times[0], "preserve", 1, lora_of(str(ours)))
    result = run_answer(task, framefold.build("uniform", 0.25), compare=True, repeats=1)
    hook.remove()
    assert result.compressed.name == "uniform, budget 0.25 (LoRA)" and result.full and result.full.name == "all tokens"
    assert {*seen} == {True, False} and seen[0] is True and same(state(host.model), before)


def test_settings_of_lora_can_be_given_as_an_object(random_host: Path) -> None:
    made = module(random_host, LoraSettings(r=1, alpha=3.0, targets=["o_proj"]))
    assert made.hparams["lora"]["r"] == 1 and len(made.lora.parameters) == 2  # type: ignore[union-attr]
