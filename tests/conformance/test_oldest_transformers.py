"""Part of the conformance suite on the oldest supported transformers, in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from framefold.adapters.hosts.base.family import OLDEST_TRANSFORMERS
from tests.support.hosts.bare_hosts import FULL_ATTENTION_HOSTS
from tests.support.hosts.tiny_families import HOSTS
from tests.support.limits import HANG
from tests.support.paths import ROOT

FOLDER = Path(sys.prefix) / "transformers-oldest"  # installed by `make setup`
# Each way through the hosts: forward, generate and backward, with all tokens, dropped ones and merged ones.
PARTS = [
    "test_identity",  # once in forward, once in generate
    "bf16_identity_is_bit_identical",
    "position_of_its_anchor",
    "test_cached_generation",
    "test_a_ragged_batch and beams",
    "checkpointing and not test_gradients_are_the_same",
]
PARTS_IN_LLM = [  # of hosts with full attention in all layers
    "test_what_is_dropped_is_masked or test_what_keeps_every_token or test_merged_tokens_equal or test_ways_to_decode",
    "test_an_untrained_compressor_changes_no_bit or test_what_is_added_is_that_of_a_loop or test_questions_share",
    "test_random_stages",
]
PARTS_OF_SOME = ["test_gradients_are_the_same_with_checkpointing", "test_mixed_layers"]
LEAST = (
    len(HOSTS) * (len(PARTS) + 1) + len(FULL_ATTENTION_HOSTS) * 9
)  # tests in_llm and added_attention have a name twice
RUN = """
import sys, pytest, transformers
print("transformers", transformers.__version__, transformers.__file__)
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"{FOLDER} does not exist: run make setup")
def test_the_conformance_suite_passes_on_the_oldest_supported_transformers() -> None:
    tests = Path(__file__).parent
    names = ("forward", "generate", "training", "in_llm", "added_attention", "random_stages", "mixed_layers")
    files = [str(tests / f"test_{name}.py") for name in names]
    files.append(str(ROOT / "tests/adapters/hosts/hooks/test_layer_training.py"))
    chosen = " or ".join(f"({part})" for part in (*PARTS, *PARTS_IN_LLM, *PARTS_OF_SOME))
    arguments = ["-q", "--no-header", "-p", "no:cacheprovider", "-k", chosen, *files]
    environment = os.environ | {"PYTHONPATH": str(FOLDER), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANG,
    )  # fmt: skip
    version = re.search(r"^transformers (\S+) (\S+)$", done.stdout, re.MULTILINE)
    assert version, done.stderr[-2000:]
    assert version[1].startswith(f"{OLDEST_TRANSFORMERS}.") and Path(version[2]).is_relative_to(FOLDER)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and passed and int(passed[1]) >= LEAST, done.stdout[-4000:]
