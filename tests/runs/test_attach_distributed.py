"""DDP and DeepSpeed on two processes train attached hosts as one process does, over gloo.

Every family is trained under ZeRO-3, where families differ in the parameters that must be gathered. Every strategy
trains each kind of gradient flow: the vision side before a compressor without parameters, compressors with and without
their own loss, a query-aware one, a scan, stages in the language model, and LoRA.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from tests.support.hosts.tiny_families import HOSTS
from tests.support.limits import HANG
from tests.support.ranks import attach_distributed as script

KINDS = [
    "llava_onevision/uniform",
    "qwen3_vl/fila",
    "qwen3_vl/top_norm",
    "smolvlm/lora",
    *(f"llava_onevision/{compressor}" for compressor in script.PARAMS),
    *(f"qwen3_vl/{compressor}" for compressor in script.IN_LLM),
    "llava_onevision/lora+fastv",
]
VISION = [f"{host}/uniform" for host in ("glm4v", "qwen3_vl", "smolvlm")]
# glm4v reads parameters of submodules directly, which ZeRO-3 gathers only on request.
PLAN = {
    "ddp": [*KINDS, *VISION, "qwen3_vl/lora+fastv/text", "llava_onevision/lora+at_layer/text"],
    "zero_2": KINDS,
    "zero_3": [*(f"{host}/fila" for host in HOSTS if host != "qwen3_vl"), *KINDS, "glm4v/uniform", "glm4v/lora"],
}
Results = dict[str, dict[str, tuple[script.Weights, list[float]]]]


@functools.cache
def reference(case: str) -> tuple[script.Weights, list[float]]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = script.reference(case)
    torch.set_num_threads(threads)
    return result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, str]:
    """Results of all strategies that ran through, and how the run ended.

    The ranks run in their own process group, which is killed as a whole on failure: SIGTERM does not reach a rank that
    waits for another.
    """
    folder = tmp_path_factory.mktemp("ranks")
    log = folder / "log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    plan = [f"{strategy}={','.join(cases)}" for strategy, cases in PLAN.items() if is_installed(strategy)]
    with open(log, "w") as stream:
        command = [sys.executable, script.__file__, str(folder), *plan]
        ranks = subprocess.Popen(command, env=env, stdout=stream, stderr=stream, start_new_session=True)
        try:
            status = ranks.wait(timeout=HANG)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if status != 0:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(ranks.pid, signal.SIGKILL)
                ranks.wait()
    weights = folder / "weights.pt"
    results = torch.load(weights, weights_only=True) if weights.exists() else {}
    return results, f"status {status}\n{log.read_text()[-3000:]}"


def is_installed(strategy: str) -> bool:
    return strategy == "ddp" or find_spec("deepspeed") is not None


@pytest.mark.timeout(HANG + 60)
@pytest.mark.parametrize("strategy", PLAN)
def test_two_processes_train_to_the_weights_of_one(strategy: str, run: tuple[Results, str]) -> None:
    if not is_installed(strategy):
        pytest.skip("DeepSpeed is not installed")
    results, log = run
    assert strategy in results, log
    assert list(results[strategy]) == PLAN[strategy]
    wrong = []
    for case, (weights, losses) in results[strategy].items():
        expected, expected_losses = reference(case)
        close = functools.partial(torch.allclose, atol=1e-6, rtol=1e-5)
        same = torch.equal if strategy == "ddp" else close
        bad = [name for name, value in expected.items() if not same(weights[name], value)]
        if bad or expected.keys() != weights.keys() or losses != pytest.approx(expected_losses, abs=2e-6):
            wrong.append((case, losses, expected_losses, bad))
    assert not wrong
    last = [name for name in PLAN if is_installed(name)][-1]
    assert strategy != last or log.startswith("status 0"), log
