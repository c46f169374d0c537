"""Strategies by name, what they spread over two ranks, and what of it is in their checkpoints."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from framefold.training.checkpoint.inventory import find_checkpoints
from framefold.training.checkpoint.read import weights
from tests.support.ranks.fork_server import Ranks, Run
from tests.support.weights import Weights, relative_differences

LORA = ["--model.lora.r", "2", "--model.lora.dropout", "0", "--model.lora.lr", "0.02", "--model.losses", "{kl: 1.0}"]
PARALLEL = "pytorch_lightning.strategies.ModelParallelStrategy"
FOLDER = ["framefold.training.strategies.fsdp2.FSDP2", "--trainer.strategy.save_distributed_checkpoint", "true"]
OFFLOAD = ["framefold.training.strategies.deepspeed.DeepSpeedOnCPU", "--trainer.strategy.process_group_backend", "gloo"]
OFFLOAD += ["--trainer.strategy.stage", "3", "--trainer.strategy.offload_optimizer", "true"]
OFFLOAD += ["--trainer.strategy.offload_parameters", "true"]
STRATEGIES = {
    "zero_1": ["deepspeed_cpu_stage_1"],
    "zero_2": ["deepspeed_cpu_stage_2"],
    "zero_3": ["deepspeed_cpu_stage_3"],
    "zero_3 offloaded": OFFLOAD,
    "fsdp2": ["fsdp2"],
    "fsdp2 in a folder": FOLDER,
}
SPREAD = """
from framefold.training.module import CompressorModule as M
from torch.distributed.tensor import DTensor
def own(p):
    if hasattr(p, "ds_tensor"):
        return p.ds_tensor.numel(), p.ds_numel
    return p.to_local().numel() if isinstance(p, DTensor) else p.numel(), p.numel()
def on_train_end(self):
    for name, p in self.named_parameters():
        print("own", name, *own(p))
M.on_train_end = on_train_end
"""
SAVE_START = """
from framefold.training.module import CompressorModule as M
M.on_train_start = lambda self: self.trainer.save_checkpoint({!r})
"""


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    server = Ranks("deepspeed", "torch.distributed.fsdp")
    yield server
    server.close()


@pytest.fixture(scope="module")
def words(random_host: Path, shards: Path) -> list[str]:
    files = ["--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu"]
    where = ["--model.host", str(random_host), "--data.shards", str(shards), "--data.batch_size", "1"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.limit_val_batches", "0", "--last.every", "2"]
    flat = ["--model.warmup", "0", "--model.lr_end", "1"]  # rates that do not depend on the number of steps
    return ["fit", *files, *where, *quiet, *flat, *LORA, "--trainer.devices", "2", "--resume", "auto"]


def fit(ranks: Ranks, words: list[str], root: Path, strategy: list[str], steps: int = 5, code: str = "") -> Run:
    more = ["--trainer.default_root_dir", str(root), "--trainer.max_steps", str(steps), "--trainer.strategy"]
    run = ranks.run([*words, *more, *strategy], root.with_name(f"{root.name}-{steps}"), code=code)
    assert run.statuses == [0, 0], run.text()[-3000:]
    return run


@pytest.fixture(scope="module")
def ddp(ranks: Ranks, words: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    """Weights at the start and at the end of an uninterrupted run."""
    root = tmp_path_factory.mktemp("ddp") / "run"
    fit(ranks, words, root, ["ddp"], code=SAVE_START.format(str(root.parent / "start.ckpt")))
    return weights(root.parent / "start.ckpt"), weights(find_checkpoints(root)[0].path)


@pytest.mark.parametrize("name", STRATEGIES)
def test_training_saving_and_going_on_is_as_under_ddp(
    ranks: Ranks, words: list[str], ddp: tuple[Weights, Weights], tmp_path: Path, name: str
) -> None:
    fit(ranks, words, tmp_path / "run", STRATEGIES[name], steps=3)
    run = fit(ranks, words, tmp_path / "run", STRATEGIES[name], code=SPREAD)
    assert "step 3" in run.text()
    last = find_checkpoints(tmp_path / "run")[0]
    assert last.step == 5 and last.world_size == 2 and not last.problem
    found = weights(last.path)
    assert {key.partition(".")[0] for key in found} == {"compressor", "lora"}
    differences = relative_differences(*ddp, found)
    assert max(differences.values()) < 1e-4, differences
    names = [line.split() for line in run.text().splitlines() if line.startswith("own ")]
    own = {parameter: (int(here), int(all_)) for _, parameter, here, all_ in names}
    assert len(own) > 20
    if name.startswith("zero_3"):  # everything of the host, too
        assert all(here == -(-whole // 2) for here, whole in own.values())
    elif name.startswith("fsdp2"):
        for parameter, (here, whole) in own.items():
            layer = ".language_model.layers." in parameter and "norm" not in parameter
            assert here * 2 == whole if layer or parameter.startswith("compressor.") else here == whole, parameter
    else:
        assert all(here == whole for here, whole in own.values())
    held = sum(file.stat().st_size for file in last.path.rglob("*.pt") if "model_states" in file.name)
    assert held < 80_000  # on both ranks; the frozen host alone has 70 kB


def test_ranks_with_unequally_many_videos_do_not_wait_for_each_other(
    ranks: Ranks, words: list[str], tmp_path: Path
) -> None:
    for name in ("zero_3", "fsdp2"):  # they gather weights from all ranks; the vision encoder runs once a video
        more = ["--data.batch_size", "3", "--data.lanes", "2", "--trainer.max_epochs", "1", "--trainer.max_steps", "-1"]
        root = ["--trainer.default_root_dir", str(tmp_path / name), "--trainer.strategy", *STRATEGIES[name]]
        code = "from framefold.training.module import CompressorModule as M\nreal = M.training_step\n"
        code += "def step(self, batch, i):\n    print('videos', len(batch))\n    return real(self, batch, i)\n"
        code += (
            f"M.training_step = step\nfrom framefold.data.loading import order\nreal_lane = order.Layout.lane\n{UNEVEN}"
        )
        run = ranks.run([*words, *more, *root], tmp_path / f"log-{name}", code=code)
        assert run.statuses == [0, 0], run.text()[-2000:]
        counts = [[line for line in run.text(rank).splitlines() if line.startswith("videos")] for rank in (0, 1)]
        assert len(counts[0]) == len(counts[1]) and counts[0] != counts[1]


UNEVEN = """
real_edge = order.Layout.edge
def edge(self, lane, step):
    at = real_edge(self, lane, step)
    return at - 1 if lane.start and step == 1 else at  # the first batch of the second lane is smaller by one
order.Layout.edge = edge
"""


def test_deepspeed_is_imported_by_runs_that_use_it_only(random_host: Path, shards: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", "compressor/fila", "--config", "data/shards", "--config", "trainer/cpu", "--config"]
    words += [
        "trainer/deepspeed",
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
        "--trainer.strategy",
        "auto",
    ]
    words += ["--trainer.precision", "32-true", "--model.host", str(random_host), "--data.shards", str(shards)]
    words += ["--data.workers", "0", "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]
    words += ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    code = "import sys\nfrom framefold.__main__ import main\nstatus = main(sys.argv[1:])\n"
    code += "print(status, 'deepspeed' in sys.modules, __import__('os').environ.get('DS_ACCELERATOR'))"
    env = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, timeout=200)
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
def test_what_fsdp2_cannot_train_is_refused(
    ranks: Ranks, words: list[str], tmp_path: Path, more: list[str], text: str
) -> None:
    run = ranks.run([*words, "--trainer.default_root_dir", str(tmp_path / "run"), *more], tmp_path / "log")
    assert run.statuses == [2, 2] and text in run.text().splitlines()[-1], run.text()
    assert "ddp" in run.text() or "fsdp2" in run.text()
