"""A script, not a test: train attached hosts on two processes, with several strategies.

Usage: attach_distributed.py FOLDER STRATEGY=CASE,CASE,... [STRATEGY=...]

Strategies are ddp, zero_2 and zero_3 (DeepSpeed on the CPU, over gloo); a case is HOST/COMPRESSOR. The script imports
everything once and forks rank 1, so that all cases share two processes and one process group. The ranks meet over a
file in FOLDER, so no port is needed. After each strategy, rank 0 saves the trained weights and the losses of all cases
so far to FOLDER/weights.pt.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import framefold

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from tests.support.hosts.tiny_families import HOSTS, labels_of  # noqa: E402
from tests.support.hosts.tiny_hosts import TopNorm  # noqa: E402

WORLD, STEPS = 2, 2
LORA = "lora"  # with a trainable compressor, and maybe further stages, as in "lora+fastv"
PARAMS: dict[str, dict[str, Any]] = {"storm": {"d_state": 4, "headdim": 8}, "qtsplus": {"noise": 0.0}}
IN_LLM = ["fila+fastv", "fila+at_layer", "storm+framefusion_in_llm"]  # pruned, merged on input and after attention
TEXT = "/text"  # ending of cases in which the second batch of rank 1 has no video
Weights = dict[str, Tensor]


def build(case: str) -> tuple[Any, list[str]]:
    """Return an attached host in training mode, and the names of its trainable parameters.

    The compressor is trained, or the vision side if the compressor has no parameters.
    """
    host, compressor = case.removesuffix(TEXT).split("/")
    model = HOSTS[host].build()
    name = compressor.replace(LORA, "fila")
    torch.manual_seed(5)  # storm and qtsplus are initialised at random
    plug = TopNorm() if name == "top_norm" else build_compressor(name)
    width = model.config.get_text_config().hidden_size
    framefold.attach(model, plug, query=torch.randn(5, width) if plug.needs_query else None)
    if LORA in compressor:
        model = with_lora(model)
    elif not model.compressor.trainable:
        train_vision_side(model, batch(case, 0, 0))
    return model.train(), [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def build_compressor(name: str) -> framefold.Compressor:
    first, *more = name.split("+")
    if not more:
        return framefold.build(name, 0.25, **PARAMS.get(name, {}))
    return framefold.build(name, 0.7, **{first: PARAMS.get(first, {})})  # the hosts have two layers


def with_lora(model: Any) -> Any:
    import peft

    torch.manual_seed(3)
    targets = r".*(language_model|text_model).*[qv]_proj"
    config = peft.LoraConfig(r=2, target_modules=targets, modules_to_save=["compressor"], init_lora_weights=False)
    return peft.get_peft_model(model, config)


def train_vision_side(model: Any, inputs: dict[str, Any]) -> None:
    """Unfreeze the parameters of the vision side that get gradients; DDP would wait for the others."""
    for name, parameter in model.base_model.named_parameters():
        parameter.requires_grad_("language_model" not in name and "text_model" not in name)
    model(**inputs).loss.backward()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def batch(case: str, step: int, rank: int) -> dict[str, Any]:
    """Return one row whose video has a different length on each rank."""
    row = [14] if case.endswith(TEXT) and (step, rank) == (1, 1) else [4, -4 - 2 * rank, 6]
    inputs = HOSTS[case.split("/")[0]].inputs(row, seed=10 * step + rank)
    return inputs | {"labels": labels_of(inputs)}


def optimizer_of(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def reference(case: str) -> tuple[Weights, list[float]]:
    """Train in one process on the same global batches; return the weights and the mean loss of each step."""
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
    parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=case.endswith(TEXT))
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
        # the default threshold would leave all parameters of a tiny model unpartitioned
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


def train(folder: Path, plan: dict[str, list[str]], rank: int) -> None:
    """Run all cases as one rank."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    store = f"file://{folder / 'rendezvous'}"
    timeout = datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=timeout)
    results: dict[str, dict[str, tuple[Weights, list[float]]]] = {}
    for strategy, cases in plan.items():
        if strategy != "ddp":
            import deepspeed

            deepspeed.init_distributed("gloo", verbose=False)
        results[strategy] = {}
        for case in cases:  # printed first, so that the last line names the case that failed
            print(f"rank {rank}: {strategy} {case}", file=sys.stderr, flush=True)
            results[strategy][case] = ddp(case, rank) if strategy == "ddp" else zero(int(strategy[-1]), case, rank)
        if rank == 0:
            torch.save(results, folder / "weights.pt")
    torch.distributed.destroy_process_group()


def preload(strategies: set[str]) -> None:
    """Import what the ranks would import later, and exempt these objects from garbage collection.

    DeepSpeed runs a full collection for every engine, which takes half a second with all modules loaded.
    """
    import peft  # noqa: F401

    torch.set_printoptions(threshold=0, edgeitems=1)  # DeepSpeed formats parameters for debug messages
    if strategies - {"ddp"}:
        import deepspeed.comm.torch

        # Shared-memory collectives need minutes of C++ compilation; gloo replaces them.
        deepspeed.comm.torch.build_shm_op = lambda: None
        with contextlib.suppress(ImportError):  # imported by the first engine, if there is such a module
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    gc.collect()
    gc.freeze()


def main(folder: str, *plans: str) -> int:
    torch.set_num_threads(1)
    plan = {strategy: cases.split(",") for strategy, cases in (text.split("=") for text in plans)}
    preload(set(plan))
    if (child := os.fork()) == 0:
        status = 1
        try:
            train(Path(folder), plan, rank=1)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    try:
        train(Path(folder), plan, rank=0)
        return wait(child, 60)
    except BaseException:
        traceback.print_exc()
        os.kill(child, signal.SIGKILL)
        return 1


def wait(child: int, timeout: float) -> int:
    """Return the exit status of a process; one that does not end in time is an error."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    raise TimeoutError(f"rank 1 did not end within {timeout} s")


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.exit(main(*sys.argv[1:]))
