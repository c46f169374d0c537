"""Strategies by name: what they shard over two ranks, and what their checkpoints contain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from framefold.training.checkpoint.inventory import list_checkpoints
from framefold.training.checkpoint.read import trained_weights
from tests.support.limits import HANG
from tests.support.ranks.fork_server import ForkServer, Run
from tests.support.weights import Weights, relative_differences

LORA = ["--model.lora.r", "2", "--model.lora.dropout", "0", "--model.lora.lr", "0.02", "--model.losses", "{kl: 1.0}"]
PARALLEL = "pytorch_lightning.strategies.ModelParallelStrategy"
FOLDER = ["framefold.training.strategies.fsdp2.FSDP2", "--trainer.strategy.save_distributed_checkpoint", "true"]
OFFLOAD = ["framefold.training.strategies.deepspeed.DeepSpeedOnCPU", "--trainer.strategy.process_group_backend", "gloo"]
OFFLOAD += ["--trainer.strategy.stage", "3", "--trainer.strategy.offload_optimizer", "true"]
OFFLOAD += ["--trainer.strategy.offload_parameters", "true"]
STRATEGIES = {
    "zero_2": ["deepspeed_cpu_stage_2"],
    "zero_3": ["deepspeed_cpu_stage_3"],
    "zero_3 offloaded": OFFLOAD,
    "fsdp2": ["fsdp2"],
    "fsdp2 in a folder": FOLDER,
}
SHARDS = """
from framefold.training.module import CompressorModule as M
from torch.distributed.tensor import DTensor
def sizes(p):
    if hasattr(p, "ds_tensor"):
        return p.ds_tensor.numel(), p.ds_numel
    return p.to_local().numel() if isinstance(p, DTensor) else p.numel(), p.numel()
def on_train_end(self):
    for name, p in self.named_parameters():
        print("sizes", name, *sizes(p))
M.on_train_end = on_train_end
"""
UNEVEN = """
from framefold.data.loading.order import Layout
from framefold.training.module import CompressorModule as M
edge, step = Layout.edge, M.training_step
def uneven_edge(self, lane, step):
    position = edge(self, lane, step)
    return position - 1 if lane.start and step == 1 else position  # a smaller first batch of lane 2
def printed_step(self, batch, i):
    print("videos", len(batch))
    return step(self, batch, i)
Layout.edge, M.training_step = uneven_edge, printed_step
"""
SAVE_START = """
from framefold.training.module import CompressorModule as M
M.on_train_start = lambda self: self.trainer.save_checkpoint({!r})
"""


@pytest.fixture(scope="module")
def words(random_host: Path, shards: Path) -> list[str]:
    files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    where = ["--model.host", str(random_host), "--data.shards", str(shards), "--data.batch_size", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--last.every", "2"]
    flat = ["--model.warmup", "0", "--model.lr_end", "1"]  # learning rates that do not depend on the number of steps
    return ["fit", *files, *where, *quiet, *flat, *LORA, "--trainer.devices", "2", "--resume", "auto"]


def fit(ranks: ForkServer, words: list[str], root: Path, strategy: list[str], steps: int = 5, code: str = "") -> Run:
    more = ["--trainer.default_root_dir", str(root), "--trainer.max_steps", str(steps), "--trainer.strategy"]
    run = ranks.run([*words, *more, *strategy], root.with_name(f"{root.name}-{steps}"), code=code)
    assert run.statuses == [0, 0], run.text()[-3000:]
    return run


@pytest.fixture(scope="module")
def ddp(ranks: ForkServer, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    """Weights at the start and at the end of an uninterrupted run."""
    root = tmp_path_factory.mktemp("ddp") / "run"
    fit(ranks, words, root, ["ddp"], code=SAVE_START.format(str(root.parent / "start.ckpt")))
    return trained_weights(root.parent / "start.ckpt"), trained_weights(list_checkpoints(root)[0].path)


@pytest.mark.parametrize("name", STRATEGIES)
def test_training_saving_and_resuming_gives_the_weights_of_ddp(
    ranks: ForkServer, words: list[str], ddp: tuple[Weights, Weights], tmp_path: Path, name: str
) -> None:
    fit(ranks, words, tmp_path / "run", STRATEGIES[name], steps=3)
    run = fit(ranks, words, tmp_path / "run", STRATEGIES[name], code=SHARDS)
    assert "step 3" in run.text()
    last = list_checkpoints(tmp_path / "run")[0]
    assert last.step == 5 and last.world_size == 2 and not last.problem
    found = trained_weights(last.path)
    assert {key.partition(".")[0] for key in found} == {"compressor", "lora"}
    differences = relative_differences(*ddp, found)
    assert max(differences.values()) < 1e-4, differences
    lines = [line.split() for line in run.text().splitlines() if line.startswith("sizes ")]
    sizes = {parameter: (int(local), int(total)) for _, parameter, local, total in lines}
    assert len(sizes) > 20
    if name.startswith("zero_3"):  # including the host
        assert all(local == -(-total // 2) for local, total in sizes.values())
    elif name.startswith("fsdp2"):
        for parameter, (local, total) in sizes.items():
            layer = ".language_model.layers." in parameter and "norm" not in parameter
            assert local * 2 == total if layer or parameter.startswith("compressor.") else local == total, parameter
    else:
        assert all(local == total for local, total in sizes.values())
    size = sum(file.stat().st_size for file in last.path.rglob("*.pt") if "model_states" in file.name)
    assert size < 80_000  # of both ranks; the frozen host alone has 70 kB


def test_ranks_with_different_numbers_of_videos_do_not_wait_for_each_other(
    ranks: ForkServer, words: list[str], tmp_path: Path
) -> None:
    for name in ("zero_3", "fsdp2"):  # they gather weights from all ranks, and the vision encoder runs once per video
        more = ["--data.batch_size", "3", "--data.lanes", "2", "--trainer.max_epochs", "1", "--trainer.max_steps", "-1"]
        root = ["--trainer.default_root_dir", str(tmp_path / name), "--trainer.strategy", *STRATEGIES[name]]
        run = ranks.run([*words, *more, *root], tmp_path / f"log-{name}", code=UNEVEN)
        assert run.statuses == [0, 0], run.text()[-2000:]
        counts = [[line for line in run.text(rank).splitlines() if line.startswith("videos")] for rank in (0, 1)]
        assert len(counts[0]) == len(counts[1]) and counts[0] != counts[1]


def test_only_runs_with_deepspeed_import_it(random_host: Path, shards: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    words += ["--config", "trainer/deepspeed", "--trainer.accelerator", "cpu", "--trainer.devices", "1"]
    words += ["--trainer.strategy", "auto", "--trainer.precision", "32-true", "--model.host", str(random_host)]
    words += ["--data.shards", str(shards), "--data.workers", "0", "--trainer.max_steps", "1"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.default_root_dir", str(tmp_path)]
    code = "import sys\nfrom framefold.__main__ import main\nstatus = main(sys.argv[1:])\n"
    code += "print(status, 'deepspeed' in sys.modules, __import__('os').environ.get('DS_ACCELERATOR'))"
    env = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=HANG)
    assert done.stdout.splitlines()[-1] == "0 False None", done.stdout + done.stderr
    assert list(tmp_path.rglob("last.ckpt"))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--trainer.strategy", PARALLEL, "--trainer.strategy.timeout", "0:01:00"], "--trainer.strategy fsdp2"),
        (
            ["--trainer.strategy", "fsdp2", "--model.lora.targets", r".*language_model.*(embed_tokens|q_proj)"],
            "lora_embedding",
        ),
    ],
)
def test_what_only_another_strategy_can_train_is_refused(
    ranks: ForkServer, words: list[str], tmp_path: Path, more: list[str], text: str
) -> None:
    run = ranks.run([*words, "--trainer.default_root_dir", str(tmp_path / "run"), *more], tmp_path / "log")
    assert run.statuses == [2, 2] and text in run.text().splitlines()[-1], run.text()
    assert "ddp" in run.text() or "fsdp2" in run.text()
