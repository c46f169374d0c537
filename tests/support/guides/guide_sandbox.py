"""Where guides are read: a small checkout, a Hub, a web server, a cluster that notes what it is to run. No tests."""

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
from tests.support.guides.blocks import ROOT, Block, blocks, parse, smaller
from tests.support.hub.loopback_hub import Hub

TREE = ("adapters", "configs", "data", "framefold", "training")
SMALL_FIT = (
    "--trainer.max_steps 2 --trainer.limit_val_batches 1 --data.val_videos 2 --data.val_frames 16 --data.workers 0"
)
# What the longer commands of the guides get; an ablation keeps its compressors, which the guides speak of.
SMALLER = {
    "shards synth": "--videos 6 --frames 16 20",
    "shards splice": "--videos 2 --minutes 0.1 0.3 --fps 2 --size 32 --workers 1",
    "shards features": "--workers 1",
    "fit": SMALL_FIT,
    "ablate --data": "--videos 2",
    "ablate": "--videos 2 --frames 16 --budgets 0.1",
    "bench compress": "--frames 4 --grid [3,3] --width 32 --repeats 1",
}
FEWER = ("-k", "llava_next_video and sdpa and identical")  # the whole of it is among the tests as it is
ON_CPU = "--trainer.accelerator cpu --trainer.devices 1 --trainer.num_nodes 1 --trainer.precision 32-true"
STRATEGY = {"trainer/deepspeed": "deepspeed_cpu_stage_2", "trainer/deepspeed_zero3": "deepspeed_cpu_stage_3"}
DOCTOR = ["framefold", "doctor"]  # it takes 16 s of CPU, and tests/guides/test_readme.py runs this very line
NO_GPU = "torch finds no GPU here"
# The commands of a cluster; each notes the words that it is to run. tests/runs/test_launch.py lets them do it.
NOTE = 'printf "%s\\n" "$@" >"$READING_NOTE"'
CLUSTER = {
    "torchrun": NOTE,
    "mpirun": f'[ "$1" != --version ] || {{ echo "mpirun (Open MPI) 5.0.8"; exit; }}\n{NOTE}',
    "srun": NOTE,
    "sbatch": "export SLURM_JOB_NAME=framefold SLURM_NNODES=2 SLURM_NTASKS_PER_NODE=8 SLURM_CPUS_PER_TASK=10\n"
    'exec bash "$@"',
    "framefold": "echo 'only started through a cluster' >&2; exit 3",
}


class Unknown(Exception):
    """A command that nobody here knows how to run."""


class Desk:
    """A folder that has what a checkout has; what commands write stays in it, and the checkout does not change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.done, self.outputs = folder, set[str](), dict[str, list[str]]()
        for name in TREE:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("checkpoints", "tests", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "docs").mkdir()
        write_clips(folder / "my_clips", 24)
        self._put_commands(folder / "bin")
        self._open = ExitStack()
        self.hub = self._open.enter_context(Hub().running())
        self.web = self._serve(folder / "runs" / "cluster" / "shards")
        self.reader = self._start_reader()

    def close(self) -> None:
        """End everything that was started."""
        os.killpg(self.reader.pid, signal.SIGKILL)
        self.reader.wait(10)
        self._open.close()

    def read(self, guide: str) -> list[str]:
        """Do everything that stands in a guide, in order, once; returns what its commands have printed.

        Raises:
            Unknown: there is a command or a block that cannot be run here. AssertionError: one has failed.
        """
        if guide not in self.outputs:
            self.outputs[guide] = []
            for block in parse(guide):
                self._do(guide, block)
        return self.outputs[guide]

    def _do(self, guide: str, block: Block) -> None:
        if block.file is not None:
            self._save(block)
        elif block.language == "python":
            file = self.folder / f"{Path(guide).stem}_{block.line}.py"
            file.write_text(block.text)
            self._run(["python", file.name], f"{guide}:{block.line}")
        elif block.language == "bash":
            for number, line in block.commands():
                self._command(line, f"{guide}:{number}")
        else:
            raise Unknown(f"{guide}:{block.line}: a block of {block.language or 'no language'}")

    def _save(self, block: Block) -> None:
        file = self.folder / str(block.file)
        text = block.text.partition("\n")[2]
        if file.exists():
            assert file.read_text() == text, f"{block.file} is another file than the guide says"
        file.write_text(text)

    def _command(self, line: str, where: str) -> None:
        words, env = shlex.split(line, comments=True), {}
        while found := re.fullmatch(r"([A-Z_]+)=(.*)", words[0]):
            env[found[1]] = found[2].replace("10.0.0.1", "127.0.0.1")
            words = words[1:]
        if words == DOCTOR:
            assert line in "\n".join(blocks("README.md", "bash"))
        elif words[0] == "framefold":
            self._framefold(words, where)
        elif words[0] == "python":
            self._run([*words, *(FEWER if "tests/conformance/test_forward.py" in words else ())], where)
        elif words[0] in ("bash", "sbatch"):
            self._launch(words, env, where)
        elif words[0] == "cp":
            self._shell(words, where, {})
        else:
            raise Unknown(f"{where}: {line}")

    def _framefold(self, words: list[str], where: str) -> None:
        web = self.web + "/shard-{000000..000000}.tar"
        words = [re.sub(r"https://data\.example\.org/shard-{\d+\.\.\d+}\.tar", web, word) for word in words]
        configs = [words[place + 1] for place, word in enumerate(words) if word == "--config"]
        on_cpu: list[str] = []
        if words[1] == "fit" and "trainer/cpu" not in configs:
            text = self._run(words, where, status=2)  # as it stands; refused when all of it has been read
            assert NO_GPU in text, f"{where}: {text}"
            strategies = [STRATEGY[name] for name in configs if name in STRATEGY]
            on_cpu = [*ON_CPU.split(), *(word for name in strategies for word in ("--trainer.strategy", name))]
        self._run([*words, *smaller(words[1:], SMALLER), *on_cpu], where)

    def _launch(self, words: list[str], env: dict[str, str], where: str) -> None:
        """Start training on a cluster, which notes what it is to run; run that here, in one process."""
        note = self.folder / "note"
        note.unlink(missing_ok=True)
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        self._shell(words, where, {**env, "READING_NOTE": str(note), "PATH": path})
        noted = note.read_text().splitlines()
        start = next(place for place, word in enumerate(noted) if noted[place + 1] == "fit")
        assert Path(noted[start]).name == "framefold" and noted[noted.index("--trainer.num_nodes") + 1] == "2"
        self._framefold(["framefold", *noted[start + 1 :]], where)

    def _shell(self, words: list[str], where: str, env: dict[str, str]) -> None:
        done = subprocess.run(
            words, cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=30
        )
        assert done.returncode == 0, f"{where}: {shlex.join(words)}\n{done.stdout}\n{done.stderr}"

    def _run(self, words: list[str], where: str, status: int = 0) -> str:
        """Run a command like a new process."""
        log = self.folder / "log"
        order = {"words": words, "log": str(log), "env": {}, "timeout": 100}
        assert self.reader.stdin is not None and self.reader.stdout is not None
        self.reader.stdin.write(json.dumps(order) + "\n")
        self.reader.stdin.flush()
        answer = json.loads(self.reader.stdout.readline())
        text = log.read_text(errors="replace")
        assert answer["status"] == status, f"{where}: {shlex.join(words)}\nstatus {answer['status']}\n{text[-3000:]}"
        self.outputs[where.partition(":")[0]].append(text)
        return text

    def _start_reader(self) -> subprocess.Popen[str]:
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        hub = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "hub"), "HF_TOKEN": "hf_write"}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        here = {"PYTHONPATH": str(self.folder), "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "COLUMNS": "99"}
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "guides" / "reader.py")],
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
        self._open.callback(server.server_close)
        self._open.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}"

    def _put_commands(self, folder: Path) -> None:
        folder.mkdir()
        for name, text in CLUSTER.items():
            (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (folder / name).chmod(0o755)
