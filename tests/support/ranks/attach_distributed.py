"""A script, not a test: train attached hosts on two processes. Usage: attach_distributed.py STRATEGY FOLDER CASE ...

Strategies: ddp, zero_2, zero_3 (DeepSpeed on the CPU, over gloo). Rank 0 starts rank 1; they meet over a file in
FOLDER, so no port is taken. What was trained is saved to FOLDER/weights.pt, one entry a case, a case being
HOST/COMPRESSOR.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import framefold

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.support.hosts.tiny_families import HOSTS, labels_of  # noqa: E402
from tests.support.hosts.tiny_hosts import TopNorm  # noqa: E402

WORLD, STEPS = 2, 2
LORA = "lora"  # before fila, both trained
COMPRESSORS = ("uniform", "pool", "st_simdiff", "fila", "top_norm", LORA)
PARAMS: dict[str, dict[str, Any]] = {"storm": {"d_state": 4, "headdim": 8}, "qtsplus": {"noise": 0.0}}
Weights = dict[str, Tensor]


def build(case: str) -> tuple[Any, list[str]]:
    """An attached host in training mode, and the names of what is trained: the compressor, or else the projector."""
    host, compressor = case.split("/")
    model = HOSTS[host].build()
    name = "fila" if compressor == LORA else compressor
    torch.manual_seed(5)  # storm and qtsplus start at random
    plug = TopNorm() if name == "top_norm" else framefold.build(name, 0.25, **PARAMS.get(name, {}))
    width = model.config.get_text_config().hidden_size
    framefold.attach(model, plug, query=torch.randn(5, width) if plug.query_aware else None)
    if compressor == LORA:
        model = with_lora(model)
    elif not model.compressor.trainable:
        train_what_gets_gradients(model, batch(case, 0, 0))
    return model.train(), [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def with_lora(model: Any) -> Any:
    import peft

    torch.manual_seed(3)
    targets = r".*(language_model|text_model).*[qv]_proj"
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["compressor"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def train_what_gets_gradients(model: Any, inputs: dict[str, Any]) -> None:
    """Unfreeze the vision side, but for what a video does not pass through: DDP would wait for its gradients."""
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_("language_model" not in name and "text_model" not in name)
    model(**inputs).loss.backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def batch(case: str, step: int, rank: int) -> dict[str, Any]:
    """One row, with a video of another length on each rank."""
    inputs = HOSTS[case.split("/")[0]].inputs([4, -4 - 2 * rank, 6], seed=10 * step + rank)
    return inputs | {"labels": labels_of(inputs)}


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def reference(case: str) -> tuple[Weights, list[float]]:
    """What one process gets from the same global batches: weights, and the mean loss of each step."""
    model, names = build(case)
    optimizer, losses = optimizer_of(model), []
    for step in range(STEPS):
        optimizer.zero_grad()
        parts = [model(**batch(case, step, rank)).loss / WORLD for rank in range(WORLD)]
        for part in parts:
            part.backward()
        optimizer.step()
        losses.append(sum(part.item() for part in parts))
    return {name: model.get_parameter(name).detach().clone() for name in names}, losses


def ddp(case: str, rank: int) -> tuple[Weights, list[float]]:
    model, names = build(case)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    optimizer, losses = optimizer_of(model), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = parallel(**batch(case, step, rank)).loss
        loss.backward()
        optimizer.step()
        losses.append(mean_of(loss))
    return {name: model.get_parameter(name).detach().clone() for name in names}, losses


def zero(stage: int, case: str, rank: int) -> tuple[Weights, list[float]]:
    import deepspeed

    model, names = build(case)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_clipping": 0.0,  # DeepSpeed's default is 1.0
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # by default it would leave all of a tiny model whole
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer_of(model), config=config)
    losses = []
    for step in range(STEPS):
        loss = engine(**batch(case, step, rank)).loss
        engine.backward(loss)
        engine.step()
        losses.append(mean_of(loss))
    parameters = [model.get_parameter(name) for name in names]
    with deepspeed.zero.GatheredParameters(parameters, enabled=stage == 3):
        weights = {name: parameter.detach().clone() for name, parameter in zip(names, parameters, strict=True)}
    engine.destroy()
    return weights, losses


def mean_of(loss: Tensor) -> float:
    total = loss.detach().clone()
    torch.distributed.all_reduce(total)
    return total.item() / WORLD


def train(strategy: str, folder: Path, cases: tuple[str, ...], rank: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    store = f"file://{folder / 'rendezvous'}"
    timeout = datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=timeout)
    run: Callable[..., tuple[Weights, list[float]]] = ddp
    if strategy != "ddp":
        import deepspeed
        import deepspeed.comm.torch

        deepspeed.comm.torch.build_shm_op = lambda: None  # shared-memory collectives: minutes of C++; gloo does it too
        deepspeed.init_distributed("gloo", verbose=False)

        def run(case: str, rank: int) -> tuple[Weights, list[float]]:
            return zero(int(strategy[-1]), case, rank)

    results = {case: run(case, rank) for case in announced(cases, rank)}
    if rank == 0:
        torch.save(results, folder / "weights.pt")
    torch.distributed.destroy_process_group()


def announced(cases: tuple[str, ...], rank: int) -> Iterator[str]:
    """The cases, each named before it is run: the last one named is the one that failed."""
    for case in cases:
        print(f"rank {rank}: {case}", file=sys.stderr, flush=True)
        yield case


def main(strategy: str, folder: str, *cases: str) -> int:
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        train(strategy, Path(folder), cases, rank=1)
        return 0
    other = subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, "RANK": "1"})
    try:
        train(strategy, Path(folder), cases, rank=0)
        return other.wait(timeout=60)
    except BaseException:
        traceback.print_exc()
        other.kill()
        return 1


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.exit(main(*sys.argv[1:]))
