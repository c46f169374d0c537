"""LoRA with a compressor: trained together, saved and loaded exactly, and never loaded apart without an error."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import framefold
from framefold.adapters import Compressor, VideoTokens
from framefold.adapters.hosts.hooks import peft_guard
from framefold.adapters.hosts.lora import config as lora_config
from framefold.adapters.pretrained import folder as adapter_folder
from framefold.errors import AdapterFileError, AttachError, ConfigError, MissingExtraError, UnsupportedHostError
from tests.support.hosts import tiny_hosts as tiny
from tests.support.hosts.refusals import wrongly_handled
from tests.support.hosts.tiny_families import HOSTS
from tests.support.hosts.tiny_hosts import TopNorm, single

peft = pytest.importorskip("peft")
TARGETS = r".*language_model.*[qv]_proj"
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")


@pytest.fixture(autouse=True)
def nothing_attached() -> None:
    """Forget the hosts of earlier tests."""
    peft_guard._GUARDS.clear()


def attached(compressor: Compressor | None = None, host: Any = None, **options: Any) -> Any:
    host = tiny.llava_onevision() if host is None else host
    framefold.attach(host, framefold.build("fila", 0.25) if compressor is None else compressor, **options)
    return host


def lora(**fields: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "target_modules": TARGETS, "modules_to_save": ["compressor"], **fields})


def randomized(model: Any, seed: int = 5) -> Any:
    """Give all trainable parameters random values, and put the model into eval mode."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def results(model: Any) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model(**single()).logits, model.generate(**single(), max_new_tokens=4)


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    """Return whether logits and generated tokens are equal."""
    return torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def training_batch() -> dict[str, Any]:
    return single() | {"labels": torch.where(torch.arange(44) > 40, single()["input_ids"], -100)}


@pytest.fixture(scope="module")
def trained() -> Any:
    """A PEFT model with random LoRA and fila; do not change it."""
    return randomized(peft.get_peft_model(attached(positions="compact", outputs="full"), lora()))


@pytest.fixture(scope="module")
def plain(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder written by PEFT's save_pretrained."""
    folder = tmp_path_factory.mktemp("plain")
    trained.save_pretrained(folder)
    return folder


@pytest.fixture
def ours(trained: Any, tmp_path: Path) -> Path:
    """Folder written by save_peft."""
    framefold.save_peft(trained, tmp_path / "ours", note="mine")
    return tmp_path / "ours"


@pytest.mark.parametrize("task", [None, "CAUSAL_LM"])
def test_peft_trains_saves_and_loads_the_compressor_with_lora(task: str | None, tmp_path: Path) -> None:
    model = peft.get_peft_model(attached(TopNorm()), lora(task_type=task, init_lora_weights=False)).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(**training_batch()).loss.backward()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert any("compressor" in name for name in named) and any("lora" in name for name in named)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in named.values())
    optimizer.step()
    expected = results(model.eval())
    model.save_pretrained(tmp_path)

    again = attached(TopNorm())
    fresh = results(again)
    loaded = peft.PeftModel.from_pretrained(again, tmp_path).eval()
    assert same(results(loaded), expected) and not torch.equal(fresh[0], expected[0])
    loaded.save_pretrained(tmp_path / "again")
    files = [folder / "adapter_model.safetensors" for folder in (tmp_path, tmp_path / "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    merged = loaded.merge_and_unload()
    assert type(merged.compressor) is TopNorm
    assert (results(merged)[0] - expected[0]).abs().max() < 1e-4
    framefold.detach(merged)
    assert not hasattr(merged, "compressor")


@pytest.mark.parametrize("family", HOSTS)
def test_every_family_is_saved_and_loaded_exactly(family: str, tmp_path: Path) -> None:
    targets = r".*(language_model|text_model).*[qv]_proj"
    model = randomized(peft.get_peft_model(attached(host=HOSTS[family].build()), lora(target_modules=targets)))
    inputs = HOSTS[family].inputs([4, -4, 6], [3, -4, 5])
    model.save_pretrained(tmp_path / "plain")
    framefold.save_peft(model, tmp_path / "ours")
    host = HOSTS[family].build()
    fresh, expected = host(**inputs).logits, model(**inputs).logits
    assert expected.shape != fresh.shape
    for loaded in (
        framefold.load_peft(host, tmp_path / "ours"),
        framefold.load_peft(HOSTS[family].build(), tmp_path / "plain"),
        peft.PeftModel.from_pretrained(attached(host=HOSTS[family].build()), tmp_path / "plain"),
    ):
        assert torch.equal(loaded(**inputs).logits, expected)


LOADERS: dict[str, Callable[[Any, Path], Any]] = {
    "from_pretrained": lambda host, folder: peft.PeftModel.from_pretrained(host, folder),
    "load_adapter": lambda host, folder: peft.get_peft_model(host, lora(modules_to_save=None)).load_adapter(
        folder, "b"
    ),
    "transformers": lambda host, folder: host.load_adapter(str(folder)),
    "config": lambda host, folder: peft.PeftConfig.from_pretrained(folder),
}


def test_a_host_without_the_compressor_is_refused(plain: Path) -> None:
    def cases(message: str) -> dict[str, tuple[Callable[[], Any], str]]:
        return {name: (partial(load, tiny.llava_onevision(), plain), message) for name, load in LOADERS.items()}

    never = cases(r"trained with fila\(.*no compressor is attached.*framefold.load_peft")
    assert not wrongly_handled(AttachError, never)
    framefold.detach(attached())  # a detached compressor does not count
    assert not wrongly_handled(AttachError, cases("no compressor is attached"))


def test_peft_itself_refuses_the_folder_if_no_compressor_was_ever_attached(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING, peft_guard.PEFT_TYPE)
    message = r"framefold.attach\(host, compressor\) first"
    cases = {name: (partial(load, tiny.llava_onevision(), plain), message) for name, load in LOADERS.items()}
    assert not wrongly_handled(KeyError, cases)


@pytest.mark.parametrize(
    ("compressor", "positions", "named"),
    [
        (lambda: framefold.build("uniform", 0.25), "compact", "uniform"),
        (lambda: framefold.build("fila", 0.25, r=2), "compact", "r=2"),
        (lambda: framefold.build("fila", 0.25), "preserve", "preserve"),
    ],
)
def test_another_compressor_is_refused(compressor: Any, positions: Any, named: str, plain: Path) -> None:
    with pytest.raises(AttachError, match=f"trained with fila.*but .*{named}.* is attached"):
        peft.PeftModel.from_pretrained(attached(compressor(), positions=positions), plain)


def test_another_budget_and_other_outputs_are_accepted(plain: Path) -> None:
    host = attached(framefold.build("fila", 0.5), positions="compact")
    model = peft.PeftModel.from_pretrained(host, plain)
    assert model(**single()).logits.shape[1] == 44 - 16


def test_peft_warns_if_it_loads_into_a_bare_host_while_another_is_attached(plain: Path, trained: Any) -> None:
    host = attached(positions="compact", outputs="full")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert same(results(peft.PeftModel.from_pretrained(host, plain)), results(trained))
    assert not [w for w in caught if "exclude_modules" in str(w.message)]
    with pytest.warns(UserWarning, match="exclude_modules.*compressor.*no modules were excluded"):
        bare = peft.PeftModel.from_pretrained(tiny.llava_onevision(), plain).get_base_model()
    with pytest.raises(AttachError, match="modules_to_save, but was added before it"):
        attached(host=bare)


def test_exclude_modules_of_the_user_are_kept(tmp_path: Path) -> None:
    for before, after in ((r".*layers\.0.*", r"(?:.*layers\.0.*)|compressor"), (["v_proj"], ["compressor", "v_proj"])):
        model = randomized(peft.get_peft_model(attached(), lora(exclude_modules=before)))
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["exclude_modules"] == before
        loaded = peft.PeftModel.from_pretrained(attached(), tmp_path)
        assert loaded.peft_config["default"].exclude_modules == after and same(results(loaded), results(model))


def test_lora_that_was_added_before_the_compressor() -> None:
    model = peft.get_peft_model(tiny.llava_onevision(), lora(modules_to_save=None))
    with pytest.raises(UnsupportedHostError, match="pass the model inside a wrapper .PEFT"):
        framefold.attach(model, TopNorm())
    framefold.attach(model.get_base_model(), framefold.build("uniform", 0.25))
    assert model(**single()).logits.shape[1] == 20
    with pytest.warns(UserWarning):
        wrong = peft.get_peft_model(tiny.llava_onevision(), lora(exclude_modules=["compressor"])).get_base_model()
    with pytest.raises(AttachError, match="attach first, then call get_peft_model"):
        attached(TopNorm(), wrong)
    assert not hasattr(wrong, "compressor") and "_framefold" not in wrong.__dict__


def test_a_compressor_that_peft_would_not_save_is_reported(tmp_path: Path) -> None:
    model = peft.get_peft_model(attached(), lora(modules_to_save=None)).train()
    with pytest.warns(UserWarning, match="PEFT froze the compressor and will not save it"):
        model(**single())
    with pytest.raises(ConfigError, match=r"modules_to_save=\['compressor'\].*framefold.save_peft"):
        model.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "adapter_config.json").exists()
    framefold.save_peft(randomized(model), tmp_path / "ours")
    assert same(results(framefold.load_peft(tiny.llava_onevision(), tmp_path / "ours")), results(model))


def test_lora_trained_with_a_training_free_compressor_requires_it(tmp_path: Path) -> None:
    model = randomized(peft.get_peft_model(attached(framefold.build("uniform", 0.25)), lora(modules_to_save=None)))
    model.save_pretrained(tmp_path)
    with pytest.raises(AttachError, match=r"but fila\(.* is attached"):
        peft.PeftModel.from_pretrained(attached(), tmp_path)
    loaded = peft.PeftModel.from_pretrained(attached(framefold.build("uniform", 0.25)), tmp_path)
    assert same(results(loaded), results(model))


class WithProjection(TopNorm):
    """Has a layer with a name that LoRA configs often target."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(32, 32)

    def compress(self, video: VideoTokens, k: int, query: Tensor | None) -> Any:
        return super().compress(VideoTokens.from_grid(self.q_proj(video.as_grid())), k, query)


@pytest.mark.filterwarnings("ignore:PEFT froze the compressor")
def test_lora_inside_the_compressor_is_refused(tmp_path: Path) -> None:
    model = peft.get_peft_model(attached(WithProjection()), lora(target_modules=["q_proj"], modules_to_save=None))
    with pytest.raises(ConfigError, match=r"compressor.q_proj.*modules_to_save.*exclude_modules"):
        model(**single())
    with pytest.raises(ConfigError, match=r"compressor.q_proj"):
        model.save_pretrained(tmp_path)
    for fields in ({}, {"modules_to_save": None, "exclude_modules": "compressor.*"}):
        model = peft.get_peft_model(attached(WithProjection()), lora(target_modules=["q_proj"], **fields))
        model.eval()(**single())
        assert not [name for name, _ in model.named_modules() if "compressor" in name and "lora" in name]


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_saves_its_own_compressor(clone: Any, tmp_path: Path) -> None:
    model = randomized(peft.get_peft_model(attached(), lora()))
    if clone is copy.deepcopy:  # transformers itself adds hooks at the first forward that cannot be pickled
        results(model)
    model.state_dict()
    twin = clone(model)
    framefold.detach(model.get_base_model())
    randomized(twin, seed=6).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "detached")
    assert json.loads((tmp_path / "detached" / "adapter_config.json").read_text())["peft_type"] == "LORA"
    host = attached()
    framefold.detach(host)
    config = peft.PeftConfig.from_pretrained(tmp_path)  # the copy is still attached
    assert config.peft_type == "LORA"
    assert same(results(peft.PeftModel.from_pretrained(attached(), tmp_path)), results(twin))
    assert copy.deepcopy(twin.peft_config["default"]).save_pretrained.model is twin.get_base_model()


def test_disabled_adapters_leave_the_compressor_that_was_attached(plain: Path, ours: Path) -> None:
    fresh = results(attached(positions="compact", outputs="full"))
    model = peft.PeftModel.from_pretrained(attached(positions="compact", outputs="full"), plain)
    with model.disable_adapter():
        assert same(results(model), fresh)
    host = tiny.llava_onevision()
    saved = results(attached(framefold.load(ours), positions="compact", outputs="full"))
    model = framefold.load_peft(host, ours)
    with model.disable_adapter():
        assert same(results(model), saved) and not torch.equal(saved[0], fresh[0])


def test_each_of_several_adapters_has_its_own_compressor(plain: Path, trained: Any, tmp_path: Path) -> None:
    model = peft.get_peft_model(attached(positions="compact", outputs="full"), lora(), adapter_name="first")
    first = results(randomized(model))
    model.load_adapter(plain, "second")
    assert same(results(model), first)
    model.set_adapter("second")
    assert same(results(model), results(trained))
    model.save_pretrained(tmp_path)
    for name, expected in (("first", first), ("second", results(trained))):
        host = attached(positions="compact", outputs="full")
        assert same(results(peft.PeftModel.from_pretrained(host, tmp_path / name)), expected)
        model.set_adapter(name)
        framefold.save_peft(model, tmp_path / "ours" / name)
        assert same(results(framefold.load_peft(tiny.llava_onevision(), tmp_path / "ours" / name)), expected)
    model.base_model.set_adapter(["first", "second"][:1])
    model.delete_adapter("second")
    assert same(results(model), first)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the frozen vision side
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        host = attached()
        if checkpointing:  # PEFT then calls enable_input_require_grads itself
            host.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model = peft.get_peft_model(host, lora())
        randomized(model).train()
        model(**training_batch()).loss.backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    without, checkpointed = gradients(False), gradients(True)
    assert len(without) == len(checkpointed) == 10
    assert all(torch.equal(value, checkpointed[name]) and value.abs().sum() > 0 for name, value in without.items())


def test_save_peft_and_load_peft_restore_everything(trained: Any, ours: Path, tmp_path: Path) -> None:
    host = tiny.llava_onevision()
    model = framefold.load_peft(host, ours)
    assert same(results(model), results(trained)) and not model.training
    assert not [name for name, p in model.named_parameters() if p.requires_grad]
    assert host._framefold.positions == "compact" and host._framefold.outputs == "full"
    assert json.loads((ours / "config.json").read_text())["note"] == "mine"
    framefold.save_peft(model, tmp_path / "again")
    for file in ("model.safetensors", "lora/adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (ours / file).read_bytes()
    half = framefold.load_peft(tiny.llava_onevision(), ours, budget=0.5, adapter_name="mine")
    assert half.get_base_model().compressor.budget == 0.5 and half.active_adapters == ["mine"]
    assert trained.get_base_model().compressor.budget == 0.25


def test_load_peft_reads_what_peft_saved_for_an_attached_host(trained: Any, plain: Path) -> None:
    assert same(results(framefold.load_peft(tiny.llava_onevision(), plain)), results(trained))


def test_peft_and_framefold_load_their_parts_of_a_folder(trained: Any, ours: Path) -> None:
    loaded = peft.PeftModel.from_pretrained(tiny.llava_onevision(), ours / "lora")
    assert loaded.peft_config["default"].peft_type == "LORA"
    framefold.attach(loaded.get_base_model(), framefold.load(ours), positions="compact", outputs="full")
    assert same(results(loaded), results(trained))


def test_a_loaded_model_can_be_trained_further(trained: Any, ours: Path, tmp_path: Path) -> None:
    def step(model: Any) -> Any:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        model.train()(**training_batch()).loss.backward()
        optimizer.step()
        return model.eval()

    model = step(framefold.load_peft(tiny.llava_onevision(), ours, trainable=True))
    expected = step(copy.deepcopy(trained))
    assert same(results(model), results(expected)) and not torch.equal(results(model)[0], results(trained)[0])
    model.save_pretrained(tmp_path / "next")
    host = attached(positions="compact", outputs="full")
    assert same(results(peft.PeftModel.from_pretrained(host, tmp_path / "next")), results(expected))


def test_a_bf16_host_is_saved_and_loaded_exactly(tmp_path: Path) -> None:
    model = randomized(peft.get_peft_model(attached(host=tiny.llava_onevision().bfloat16()), lora()))
    inputs = single() | {"pixel_values_videos": single()["pixel_values_videos"].bfloat16()}
    framefold.save_peft(model, tmp_path)
    loaded = framefold.load_peft(tiny.llava_onevision().bfloat16(), tmp_path)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("fields", [{"use_dora": True}, {"rank_pattern": {"q_proj": 3}, "use_rslora": True}])
def test_other_modules_and_variants_of_lora_are_saved(fields: dict[str, Any], tmp_path: Path) -> None:
    model = peft.get_peft_model(attached(), lora(modules_to_save=["lm_head", "compressor"], **fields))
    framefold.save_peft(randomized(model), tmp_path)
    assert same(results(framefold.load_peft(tiny.llava_onevision(), tmp_path)), results(model))


def edit(file: str, **fields: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({k: v for k, v in {**content, **fields}.items() if v != "absent"}))

    return apply


def tensors(file: str, change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        state = load_file(folder / file)
        change(state)
        save_file(state, folder / file)

    return apply


CONFIG, LORA, WEIGHTS = "config.json", "lora/adapter_config.json", "lora/adapter_model.safetensors"
Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: folder.rename(folder.parent / "gone"), "not an adapter folder"),
    "no config": (lambda folder: (folder / CONFIG).unlink(), "not an adapter folder"),
    "no compressor": (lambda folder: (folder / "model.safetensors").unlink(), "no such file"),
    "no lora": (lambda folder: (folder / LORA).unlink(), "not an adapter folder"),
    "no lora weights": (lambda folder: (folder / WEIGHTS).unlink(), "missing or empty"),
    "compressor alone": (edit(CONFIG, lora="absent"), "without LoRA"),
    "truncated weights": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9]),
        "damaged",
    ),
    "truncated config": (lambda folder: (folder / LORA).write_text("{"), "cannot be read"),
    "unknown compressor": (edit(CONFIG, compressor="filo"), "did you mean 'fila'"),
    "newer": (edit(CONFIG, framefold_format=2), "upgrade framefold"),
    "positions": (edit(CONFIG, positions="everywhere"), "positions must be one of"),
    "width": (edit(CONFIG, width=64), "of width 64, this Llava.* has 32"),
    "another method": (edit(LORA, peft_type="IA3"), "'IA3', not 'LORA'"),
    "imports": (edit(LORA, megatron_config={"a": 1}, megatron_core="os"), "megatron_config=.* not supported"),
    "changes the host": (edit(LORA, init_lora_weights="pissa"), "'pissa' changes the host"),
    "rank as text": (edit(LORA, r="2"), "r is '2'"),
    "rank beyond memory": (edit(LORA, r=10**9), "ranks must be 1 to"),
    "rank of another": (edit(LORA, r=3), r"is \(2, 32\), the host needs \(3, 32\)"),
    "dropout": (edit(LORA, lora_dropout=7), "dropout"),
    "task": (edit(LORA, task_type="TASK"), "task type"),
    "nothing matches": (edit(LORA, target_modules=["nothing"]), "No modules were targeted"),
    "one more target": (edit(LORA, target_modules=["q_proj", "v_proj", "k_proj"]), "k_proj.* is missing"),
    "a module of the host": (edit(LORA, modules_to_save=["lm_head"]), "lm_head.* is missing"),
    "a missing tensor": (tensors(WEIGHTS, lambda state: state.pop(Q)), f"{Q} is missing"),
    "an extra tensor": (
        tensors(WEIGHTS, lambda s: s.update({Q.replace("q_proj", "o_proj"): s[Q].clone()})),
        "o_proj.* not in the host",
    ),
    "nan": (tensors(WEIGHTS, lambda state: state[Q].fill_(torch.nan)), f"{Q} contains NaN"),
}


def test_a_damaged_or_unsupported_folder_is_refused_and_the_host_unchanged(ours: Path) -> None:
    host = tiny.llava_onevision()
    host.lm_head.requires_grad_(True)
    before = {name: (value.clone(), value.requires_grad) for name, value in host.named_parameters()}
    attributes = set(host.__dict__)
    cases = {}
    for number, (case, (damage, message)) in enumerate(DAMAGE.items()):
        folder = ours.parent / f"case-{number}"
        shutil.copytree(ours, folder)
        damage(folder)
        cases[case] = (partial(framefold.load_peft, host, folder), message)
    for case in cases:
        assert not wrongly_handled(AdapterFileError, {case: cases[case]})
        after = dict(host.named_parameters())
        assert list(after) == list(before) and set(host.__dict__) == attributes, case
        assert all(torch.equal(after[name], value) for name, (value, _) in before.items()), case
        assert all(after[name].requires_grad == flag for name, (_, flag) in before.items()), case


def test_a_damaged_folder_of_peft_is_refused(plain: Path, tmp_path: Path) -> None:
    content = json.loads((plain / "adapter_config.json").read_text())
    for field in (None, {}, {"peft_type": peft_guard.PEFT_TYPE}, {**content["framefold"], "peft_type": "NONE"}):
        (tmp_path / "adapter_config.json").write_text(json.dumps({**content, "framefold": field}))
        attached(positions="compact")
        with pytest.raises(AdapterFileError, match="adapter_config.json"):
            peft.PeftModel.from_pretrained(tiny.llava_onevision(), tmp_path)
        with pytest.raises(AdapterFileError, match="adapter_config.json|does not fit"):
            framefold.load_peft(tiny.llava_onevision(), tmp_path)


def test_a_full_disk_leaves_the_old_folder_intact(trained: Any, ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in ours.rglob("*") if path.is_file()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    for module in (lora_config, adapter_folder):
        with monkeypatch.context() as patch:
            patch.setattr(module, "save_file", full)
            with pytest.raises(OSError, match="No space left"):
                framefold.save_peft(randomized(copy.deepcopy(trained), seed=9), ours)
        assert {path: path.read_bytes() for path in ours.rglob("*") if path.is_file()} == before


def test_models_that_cannot_be_saved_are_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a PEFT model .*, got Llava"):
        framefold.save_peft(attached(), tmp_path)
    with pytest.raises(AttachError, match="no compressor is attached"):
        framefold.save_peft(peft.get_peft_model(tiny.llava_onevision(), lora(modules_to_save=None)), tmp_path)
    for config, message in (
        (lora(init_lora_weights="pissa"), "'pissa' changes the host"),
        (lora(trainable_token_indices=[1, 2]), "trainable_token_indices"),
        (peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "not 'LORA'"),
    ):
        with pytest.raises(ConfigError, match=message):
            framefold.save_peft(peft.get_peft_model(attached(), config), tmp_path)
    model = peft.get_peft_model(attached(framefold.build("uniform")), lora(modules_to_save=None))
    model.add_adapter("b", lora(modules_to_save=None))
    model.base_model.set_adapter(["default", "b"])
    with pytest.raises(ConfigError, match="saves one adapter"):
        framefold.save_peft(model, tmp_path)
    apart = peft.get_peft_model(attached(), lora())
    next(p for name, p in apart.named_parameters() if "lora_A" in name).data = torch.empty(0)
    with pytest.warns(UserWarning, match="ZeRO-3"), pytest.raises(ConfigError, match="partitioned by ZeRO-3"):
        framefold.save_peft(apart, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_host_with_a_compressor_or_adapters_is_refused(ours: Path) -> None:
    host = attached(TopNorm())
    with pytest.raises(AttachError, match="already"):
        framefold.load_peft(host, ours)
    assert isinstance(host.compressor, TopNorm)
    with pytest.raises(AttachError, match="already"):
        framefold.load_peft(peft.get_peft_model(tiny.llava_onevision(), lora()).get_base_model(), ours)
    with pytest.raises(UnsupportedHostError):
        framefold.load_peft(nn.Linear(2, 2), ours)


def test_the_error_without_peft_names_the_command_that_installs_it(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.*\[lora\]'"):
        framefold.load_peft(tiny.llava_onevision(), ours)
