"""A scratch checkout in which README and the guides are executed, with a Hub, a web server and a recording cluster."""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.coloured_clips import write_clips
from tests.support.guides.blocks import ROOT, Block, parse
from tests.support.hub.loopback_hub import Hub
from tests.support.limits import HANG

SOURCE = ("adapters", "configs", "data", "evaluation", "framefold", "training")
SMALL_FIT = (
    "--trainer.max_steps 2 --trainer.limit_val_batches 1 --data.val_videos 2 --data.val_frames 16 --data.workers 0"
)
FEW_METHODS = "--videos 2 --frames 16 --budgets 0.25 --compressors uniform scene_mean"
# Options appended to a command so that it ends within seconds; the command itself stays as a reader would type it.
# The first key that the command starts with counts. An ablation keeps its compressors, which the guides describe.
SMALLER = {
    "shards synth": "--videos 6 --frames 16 20",
    "shards splice": "--videos 2 --minutes 0.1 0.3 --fps 2 --size 32 --workers 1",
    "shards features": "--workers 1",
    "shards import": "--max_frames 8 --size 32 --workers 1",
    "fit": SMALL_FIT,
    "validate": "--data.val_videos 2 --data.val_frames 16",
    "ablate --config ablation/demo --adapters": FEW_METHODS,
    "ablate --config ablation/hard": FEW_METHODS,
    "ablate --config ablation/default": "--videos 2 --frames 16 --budgets 0.25",
    "ablate --data": "--videos 2",
    "ablate": "--videos 2 --frames 16 --budgets 0.1",
    "tinyhost eval": "--frames 16 --videos 2",
    "tinyhost train": "--config tests/assets/tinyhost_training.yaml",
    "bench synth": "--videos 2",
    "bench shortcuts": "--videos 2 --frames 16",
    "bench teacher": "--videos 2 --frames 16",
    "bench compress": "--frames 4 --grid [3,3] --width 32 --repeats 1",
    "bench attach": "--frames 2 --side 2 --repeats 1",
}
# Stands for the 7B host of a guide: random weights in tiny sizes, with the real processor.
RANDOM_HOST = """
from pathlib import Path

from framefold.training.frozen_host.torchvision import find_torchvision

find_torchvision()
from tests.support.hosts.tiny_processors import save_host

save_host("qwen2_5_vl", Path("hosts/qwen2_5_vl"))
"""
FEWER_TESTS = ("-k", "llava_next_video and identical")  # all of them run as part of the suite
ON_CPU = "--trainer.accelerator cpu --trainer.devices 1 --trainer.num_nodes 1 --trainer.precision 32-true"
STRATEGY = {"trainer/deepspeed": "deepspeed_cpu_stage_2", "trainer/deepspeed_zero3": "deepspeed_cpu_stage_3"}
TESTED_ELSEWHERE = (["framefold", "doctor"],)  # 16 s of CPU; tests/cli/doctor/test_doctor.py runs it on this machine
NO_GPU = "torch finds no GPU here"
# Commands of a cluster; each records the command line it was given. tests/runs/test_launch.py executes them.
RECORD = 'printf "%s\\n" "$@" >"$SANDBOX_RECORD"'
CLUSTER = {
    "torchrun": RECORD,
    "mpirun": f'[ "$1" != --version ] || {{ echo "mpirun (Open MPI) 5.0.8"; exit; }}\n{RECORD}',
    "srun": RECORD,
    "sbatch": "export SLURM_JOB_NAME=framefold SLURM_NNODES=2 SLURM_NTASKS_PER_NODE=8 SLURM_CPUS_PER_TASK=10\n"
    'exec bash "$@"',
    "framefold": "echo 'only started through a cluster' >&2; exit 3",
}


class UnknownCommandError(Exception):
    """A command or code block that the sandbox cannot run."""


class GuideSandbox:
    """A folder with everything that a checkout has; files that commands write stay in it.

    Commands of framefold and Python run as they are written, with the options of SMALLER appended. A command for GPUs
    must first be refused, then runs on the CPU. A script of ``framefold launch`` meets a cluster that records the
    command it has to start; that command runs here in one process. Pushes go to a Hub on this machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.outputs = folder, dict[str, list[str]]()
        for name in SOURCE:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("checkpoints", "tests", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "docs").mkdir()
        write_clips(folder / "my_clips", 24)
        self._write_commands(folder / "bin")
        self._exit = ExitStack()
        self.hub = self._exit.enter_context(Hub().running())
        self.web = self._serve(folder / "runs" / "cluster" / "shards")
        self.server = self._start_server()

    def close(self) -> None:
        """End all processes and servers."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait(10)
        self._exit.close()

    def run_guide(self, guide: str) -> list[str]:
        """Run all blocks of a guide in order, unless done before, and return the outputs of its commands.

        Raises:
            UnknownCommandError: a command or a block cannot be run here.
            AssertionError: a command failed.
        """
        if guide not in self.outputs:
            self.outputs[guide] = []
            if guide == "docs/gpu_box.md":
                self.run_python(RANDOM_HOST, f"{guide}:host")
            for block in parse(guide):
                self.run_block(guide, block)
        return self.outputs[guide]

    def run_block(self, guide: str, block: Block) -> None:
        """Save a block as the file that it names, or run it."""
        if block.file is not None:
            self._save(block)
        elif block.language == "python":
            self.run_python(block.text, f"{guide}:{block.line}")
        elif block.language == "bash":
            for number, line in block.commands():
                self.run_command(line, f"{guide}:{number}")
        else:
            raise UnknownCommandError(f"{guide}:{block.line}: a block of {block.language or 'no language'}")

    def run_python(self, code: str, where: str) -> str:
        """Run Python code as a script of its own."""
        file = self.folder / f"{re.sub(r'[^a-zA-Z0-9]', '_', where)}.py"
        file.write_text(code)
        return self._run(["python", file.name], where)

    def run_command(self, line: str, where: str) -> None:
        """Run a command line."""
        words, env = shlex.split(line, comments=True), {}
        while found := re.fullmatch(r"([A-Z_]+)=(.*)", words[0]):
            env[found[1]] = found[2].replace("10.0.0.1", "127.0.0.1")
            words = words[1:]
        if words in TESTED_ELSEWHERE:
            return
        if words[0] == "framefold":
            self._framefold(words, where)
        elif words[0] == "python":
            self._run([*words, *(FEWER_TESTS if "tests/conformance/test_forward.py" in words else ())], where)
        elif words[0] in ("bash", "sbatch"):
            self._launch(words, env, where)
        elif words[0] == "cp":
            self._shell(words, where, {})
        else:
            raise UnknownCommandError(f"{where}: {line}")

    def _save(self, block: Block) -> None:
        file = self.folder / str(block.file)
        text = block.text.partition("\n")[2]
        if file.exists():
            assert file.read_text() == text, f"{block.file} differs from the guide"
        file.write_text(text)

    def _framefold(self, words: list[str], where: str) -> None:
        web = self.web + "/shard-{000000..000000}.tar"
        words = [re.sub(r"https://data\.example\.org/shard-{\d+\.\.\d+}\.tar", web, word) for word in words]
        configs = [words[place + 1] for place, word in enumerate(words) if word == "--config"]
        on_cpu: list[str] = []
        if words[1] == "fit" and "trainer/cpu" not in configs:
            text = self._run(words, where, status=2)  # as written; refused after all options have been read
            assert NO_GPU in text, f"{where}: {text}"
            strategies = [STRATEGY[name] for name in configs if name in STRATEGY]
            on_cpu = [*ON_CPU.split(), *(word for name in strategies for word in ("--trainer.strategy", name))]
        command = " ".join(words[1:])
        smaller = next((options for start, options in SMALLER.items() if command.startswith(start)), "").split()
        self._run([*words, *smaller, *on_cpu], where)

    def _launch(self, words: list[str], env: dict[str, str], where: str) -> None:
        """Start training on the recording cluster, and run the recorded command here in one process."""
        record = self.folder / "record"
        record.unlink(missing_ok=True)
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        self._shell(words, where, {**env, "SANDBOX_RECORD": str(record), "PATH": path})
        recorded = record.read_text().splitlines()
        start = next(place for place in range(len(recorded)) if recorded[place + 1] == "fit")
        assert Path(recorded[start]).name == "framefold" and recorded[recorded.index("--trainer.num_nodes") + 1] == "2"
        self._framefold(["framefold", *recorded[start + 1 :]], where)

    def _shell(self, words: list[str], where: str, env: dict[str, str]) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=HANG
        )
        assert done.returncode == 0, f"{where}: {shlex.join(words)}\n{done.stdout}\n{done.stderr}"

    def _run(self, words: list[str], where: str, status: int = 0) -> str:
        """Run a command on the command server; return what it printed."""
        log = self.folder / "log"
        request = {"words": words, "log": str(log), "timeout": 200}
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        text = log.read_text(errors="replace")
        assert answer["status"] == status, f"{where}: {shlex.join(words)}\nstatus {answer['status']}\n{text[-3000:]}"
        self.outputs.setdefault(where.partition(":")[0], []).append(text)
        return text

    def _start_server(self) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        hub = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "hub"), "HF_TOKEN": "hf_write"}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        here = {"PYTHONPATH": str(self.folder), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "COLUMNS": "99"}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "guides" / "command_server.py")],
            cwd=self.folder,
            env={**clean, **hub, **quiet, **here, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def _serve(self, folder: Path) -> str:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self._exit.callback(server.server_close)
        self._exit.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}"

    def _write_commands(self, folder: Path) -> None:
        folder.mkdir()
        for name, text in CLUSTER.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)
