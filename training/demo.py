"""``framefold demo``: the whole job in minutes, each stage with the command a user would type.

Shards -> training -> export -> ablation with the adapter loaded back -> report. A stage that has finished is not run
again while its command, its configurations, the host and the stages before it are the same; otherwise what it made is
made anew. An interrupted stage goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ..adapters import load
from ..adapters.errors import FramefoldError
from ..adapters.folder import replace_file
from ..configs import find
from .digests import file_digest, host_digest


class StageError(FramefoldError, RuntimeError):
    """A stage of the demo failed; its own message stands above."""


def demo(
    out: str = "runs/demo",
    host: str = "checkpoints/tinyhost",
    videos: int = 400,
    frames: list[int] | None = None,
    train: str = "compressor/fila",
    ablation: str = "ablation/demo",
    heldout_videos: int | None = None,
    max_steps: int | None = None,
) -> None:
    """Write shards, train a compressor, export it, compare it with the training-free ones, and show the table.

    Args:
        out: folder of the run; what is finished there is reused.
        host: folder of the host.
        videos: synthetic training videos to write.
        frames: shortest and longest of them, 32 and 64 by default.
        train: configuration of the compressor to train.
        ablation: configuration of the comparison.
        heldout_videos: of the comparison, as in its configuration by default.
        max_steps: shortens the training.

    Raises:
        StageError: there is no host, or a stage failed.
        ConfigNotFoundError: no such configuration.
    """
    if not (Path(host) / "config.json").is_file():
        raise StageError(f"no host in {host}: make one with 'framefold host train --out {host}'")
    shards, run, adapter, results = (str(Path(out) / name) for name in ("shards", "fit", "adapter", "ablation"))
    synth = ["shards", "synth", "--out", shards, "--videos", str(videos), "--seed", "0"]
    fit = ["fit", "--config", train, "--config", "data/shards", "--config", "trainer/cpu", "--model.host", host]
    fit += ["--data.shards", shards, "--trainer.default_root_dir", run]
    compare = ["ablate", "--config", ablation, "--out", results, "--host", host, "--adapters", adapter]
    if max_steps is not None:
        fit += ["--trainer.max_steps", str(max_steps)]
    if heldout_videos is not None:
        compare += ["--videos", str(heldout_videos)]
    model = host_digest(Path(host))
    key = _stage("1/4 shards", [*synth, "--frames", *map(str, frames or [32, 64])], Path(shards))
    key = _stage("2/4 training", fit, Path(run), key + model)
    key = _stage("3/4 export", ["export", "--checkpoint", run, "--out", adapter], Path(adapter), key)
    print(f"loaded back: {load(adapter)}", flush=True)
    _stage("4/4 ablation", compare, Path(results), key + model, again=True)


def _stage(title: str, command: list[str], made: Path, after: str = "", again: bool = False) -> str:
    """Run a framefold command, unless it has finished with the same inputs before.

    Args:
        made: the folder it writes; a file beside it notes with which inputs.
        after: key of what it reads. again: run it even so (the ablation keeps its own books and shows the table).

    Returns:
        The key of what it made.
    """
    line = f"framefold {shlex.join(command)}"
    configs = [file_digest(find(command[i + 1])) for i, word in enumerate(command) if word == "--config"]
    key = hashlib.sha256("\n".join([after, line, *configs]).encode()).hexdigest()
    note = made.with_name(f".{made.name}.stage")
    noted = note.read_text() if note.is_file() else ""
    if noted == f"{key} done" and made.is_dir() and not again:
        print(f"[{title}] already there: {line}", flush=True)
        return key
    if noted and not noted.startswith(key) and made.exists():
        print(f"[{title}] {made} was made from something else: made anew", flush=True)
        shutil.rmtree(made)
    made.parent.mkdir(parents=True, exist_ok=True)
    replace_file(note, lambda beside: beside.write_text(f"{key} begun"))
    print(f"[{title}] {line}", flush=True)
    start = time.monotonic()
    status = _run([*command, *_go_on(command, made)])
    if status:
        raise StageError(f"stage {title} failed with status {status}; the same call goes on from there")
    replace_file(note, lambda beside: beside.write_text(f"{key} done"))
    print(f"[{title}] done in {time.monotonic() - start:.0f} s", flush=True)
    return key


def _go_on(command: list[str], made: Path) -> list[str]:
    """Where an interrupted training goes on; the other stages find out by themselves."""
    if command[0] != "fit":
        return []
    found = sorted(made.rglob("last.ckpt"), key=lambda file: file.stat().st_mtime)
    return ["--ckpt_path", str(found[-1])] if found else []


def _run(command: list[str]) -> int:
    """Run a framefold command to its end, also when this process is to end: it has half-written files to remove."""
    # The matrices are small: a second thread brings a sixth on a calm machine, and costs a factor of ten on a busy one.
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    with subprocess.Popen([sys.executable, "-m", "framefold", *command], env=env) as child:
        before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            return child.wait()
        except KeyboardInterrupt:  # it has reached the child as well
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
