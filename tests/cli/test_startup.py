"""What ``framefold answer`` and ``framefold show`` import: most of their time on a short clip is spent on it.

Modules are counted, since times depend on the load of the machine.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import pytest

from framefold.cli.collection import SHORT, paused_collection
from tests.support.limits import HANG
from tests.support.paths import ROOT, TINYHOST
from tests.support.processes import needs_torchvision

# Packages that neither command needs. PEFT is imported by transformers itself when it loads a model by its config.
NEEDLESS = {"webdataset", "pytorch_lightning", "lightning", "deepspeed", "torchdata", "datasets", "pandas", "plotly"}
NEEDLESS |= {"sklearn", "IPython", "tensorboard", "wandb", "mamba_ssm"}
MOST = 4_000  # modules; 3,647 for answer and 3,741 for both when this was written
CODE = """
import json, sys
from framefold.__main__ import main
video, host = sys.argv[1:]
counts = []
for words in (
    ["answer", "--host", host, "--question", "which shape flashed first ?", "--max_new_tokens", "1", "--repeats", "1"],
    ["show", "--host", host],
):
    assert main([*words, "--video", video, "--compressor", "uniform", "--frames", "4", "--budget", "0.5"]) == 0
    counts.append([len(sys.modules), sorted({name.partition(".")[0] for name in sys.modules})])
print(json.dumps(counts))
"""


@needs_torchvision
@pytest.mark.timeout(HANG)
def test_answer_and_show_import_no_more_than_they_need(tmp_path: Path) -> None:
    from framefold.__main__ import main

    video = tmp_path / "video.mp4"
    assert main(["view", "--out", str(video), "--frames", "16"]) == 0
    command = [sys.executable, "-c", CODE, str(video), str(TINYHOST)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, cwd=ROOT, check=True)
    (answer, of_answer), (show, of_show) = json.loads(done.stdout.splitlines()[-1])
    assert not NEEDLESS & {*of_answer, *of_show} and "matplotlib" not in of_answer
    assert answer <= MOST and show <= MOST, (answer, show)


def test_the_collector_is_paused_for_short_verbs_only_and_runs_again_after_errors() -> None:
    found = {}
    for verb in (*SHORT, "ablate"):
        with pytest.raises(KeyError), paused_collection(verb):
            found[verb] = gc.isenabled()
            raise KeyError
        assert gc.isenabled(), verb
    assert found == {"show": False, "ablate": True}
