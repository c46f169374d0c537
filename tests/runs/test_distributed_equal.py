"""A global batch trains the same weights in one process and divided between two ranks with DDP, FSDP2 or ZeRO.

13 steps with accumulated gradients, some of them clipped, past two ends of epochs at which the accumulated batches are
incomplete. The losses are means over questions, of which the ranks have different numbers, and qtsplus draws noise.
Chains end with a stage inside the language model.

Rounding changes no tensor by more than 5e-6 of its movement. The smallest of the deliberate faults changes the tensors
by 7e-3 of their movement. The bound is between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.limits import HANG
from tests.support.ranks.distributed_equal import FAULTS, PARAMS
from tests.support.ranks.fork_server import ForkServer
from tests.support.weights import relative_differences

TOGETHER = {
    "ddp": tuple(PARAMS),
    "deepspeed_cpu_stage_1": ("qtsplus",),  # stages 1 and 2 are one class of DeepSpeed
    "deepspeed_cpu_stage_2": ("storm", "fila", "fila+fastv"),
    "deepspeed_cpu_stage_3": ("storm", "qtsplus", "fila", "fila+fastv"),
    "fsdp2": ("storm", "qtsplus", "fila", "fila+at_layer"),
}
BOUND = 1e-4  # of the difference between trainings, relative to the movement
CODE = "from tests.support.ranks.distributed_equal import train_all; train_all({!r}, {!r}, {!r}, {!r}, {!r})"


@pytest.fixture(scope="module")
def trained(
    ranks: ForkServer, random_host: Path, deep_host: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of the weights of all trainings."""
    out = tmp_path_factory.mktemp("equal")
    common: tuple[Any, ...] = ({False: str(random_host), True: str(deep_host)}, str(shards), str(out))
    alone = dict(zip(PARAMS, FAULTS, strict=False))
    together = [(compressor, strategy) for strategy, compressors in TOGETHER.items() for compressor in compressors]
    runs = [
        ranks.start([], out / "one", world=1, code=CODE.format(*common, [(c, "auto") for c in PARAMS], alone)),
        ranks.start([], out / "two", world=2, code=CODE.format(*common, together, {})),
    ]
    statuses = [ranks.wait(run, HANG) for run in runs]
    for run, status in zip(runs, statuses, strict=True):
        assert not any(status), f"{status}\n{run.text()[-3000:]}"
    return out


def differences(trained: Path, compressor: str, training: str) -> dict[str, float]:
    """Return the differences between one of the trainings and that of a single process."""
    names = ("auto-start", "auto", training)
    return relative_differences(*(torch.load(trained / f"{compressor}-{name}.pt", weights_only=True) for name in names))


@pytest.mark.timeout(2 * HANG + 60)
@pytest.mark.parametrize("strategy", TOGETHER)
def test_two_ranks_train_the_weights_of_a_single_process(trained: Path, strategy: str) -> None:
    for compressor in TOGETHER[strategy]:
        found = differences(trained, compressor, strategy)
        wrong = {name: value for name, value in found.items() if not value < BOUND}
        assert not wrong, f"{compressor}: {wrong}"


@pytest.mark.timeout(2 * HANG + 60)
def test_the_bound_lies_far_below_the_effect_of_a_fault(trained: Path) -> None:
    for compressor, fault in zip(PARAMS, FAULTS, strict=False):
        found = differences(trained, compressor, fault)
        assert found["all"] > 50 * BOUND, f"{compressor}, {fault}: {found}"
