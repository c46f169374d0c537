"""``framefold demo``: the complete workflow within minutes; every stage prints the command that a user would type.

Shards -> training -> export -> ablation with the loaded adapter and the shipped ones -> report. A finished stage is
skipped as long as its command, its configurations, the host and all previous stages are unchanged; otherwise its output
is removed and computed again. An interrupted stage resumes where it stopped.
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

from framefold.adapters import load
from framefold.adapters.pretrained.config import CONFIG
from framefold.configs import find_config
from framefold.errors import FramefoldError
from framefold.evaluation.results.provenance import host_digest
from framefold.files import file_digest, replace_file
from framefold.training.frozen_host.locate import find_host

SHIPPED = ("storm", "qtsplus", "fila")  # adapter folders next to the host's, and names of packaged configurations


class StageError(FramefoldError, RuntimeError):
    """A stage of the demo failed; its own message was printed before."""


def demo(
    out: str = "runs/demo",
    host: str = "checkpoints/tinyhost",
    videos: int = 400,
    frames: list[int] | None = None,
    train: list[str] | None = None,
    retrain: bool = False,
    ablation: str = "ablation/demo",
    heldout_videos: int | None = None,
    max_steps: int | None = None,
) -> None:
    """Write shards, train a compressor, export it, compare it with the others, and print the table.

    Shipped compressors that are not trained here are compared with the weights in the folders next to the host's.

    Args:
        out: folder of the run; finished stages in it are reused.
        host: folder of the host.
        videos: number of synthetic training videos to write.
        frames: shortest and longest video in frames; 32 and 64 by default.
        train: configurations of the compressors to train; compressor/fila by default.
        retrain: train all shipped compressors (a quarter of an hour on one CPU core).
        ablation: configuration of the ablation.
        heldout_videos: number of videos of the ablation; by default as in its configuration.
        max_steps: upper limit of training steps.

    Raises:
        HostError: there is no host.
        StageError: a stage failed.
        ConfigNotFoundError: a configuration does not exist.
    """
    found = find_host(host)
    recipes = train or [f"compressor/{name}" for name in (SHIPPED if retrain else ("fila",))]
    for recipe in recipes:
        find_config(recipe)
    total, host_key = 2 * len(recipes) + 2, host_digest(found.folder)
    shards = str(Path(out) / "shards")
    synth = ["shards", "synth", "--out", shards, "--videos", str(videos), "--seed", "0"]
    shards_key = _stage(f"1/{total} shards", [*synth, "--frames", *map(str, frames or [32, 64])], Path(shards))
    keys, adapters = [], []
    for number, recipe in enumerate(recipes):
        run, adapter = (str(Path(out) / kind / Path(recipe).stem) for kind in ("fit", "adapters"))
        fit = ["fit", "--config", recipe, "--config", "data/shards", "--config", "trainer/cpu", "--model.host", host]
        fit += ["--data.shards", shards, "--trainer.default_root_dir", run]
        fit += [] if max_steps is None else ["--trainer.max_steps", str(max_steps)]
        key = _stage(f"{2 * number + 2}/{total} training", fit, Path(run), shards_key + host_key)
        export = ["export", "--checkpoint", run, "--out", adapter]
        keys.append(_stage(f"{2 * number + 3}/{total} export", export, Path(adapter), key))
        adapters.append(adapter)
        print(f"loaded back: {load(adapter)}", flush=True)
    results = Path(out) / "ablation"
    compare = ["ablate", "--config", ablation, "--out", str(results), "--host", host]
    compare += ["--adapters", *adapters, *_shipped(Path(host).parent, adapters)]
    if heldout_videos is not None:
        compare += ["--videos", str(heldout_videos)]
    _stage(f"{total}/{total} ablation", compare, results, "".join(keys) + host_key, always=True)
    print(f"open the report in a browser: {(results / 'report.html').resolve()}", flush=True)


def _shipped(folder: Path, trained: list[str]) -> list[str]:
    """Return the shipped adapters in a folder, without those of compressors that were trained here."""
    names = {load(adapter).name for adapter in trained}
    adapters = [folder / name for name in SHIPPED if (folder / name / CONFIG).is_file()]
    return [str(adapter) for adapter in adapters if load(adapter).name not in names]


def _stage(title: str, command: list[str], output: Path, inputs: str = "", always: bool = False) -> str:
    """Run a framefold command, unless it has finished with the same inputs before.

    Args:
        title: number and name of the stage.
        command: words after ``framefold``.
        output: folder that the command writes. A file next to it records the inputs it was written from.
        inputs: keys of the stages and files that the command reads.
        always: run a finished command again (the ablation skips what it has measured, and prints the table).

    Returns:
        The key of the output.
    """
    line = f"framefold {shlex.join(command)}"
    configs = [file_digest(find_config(command[i + 1])) for i, word in enumerate(command) if word == "--config"]
    key = hashlib.sha256("\n".join([inputs, line, *configs]).encode()).hexdigest()
    record = output.with_name(f".{output.name}.stage")
    recorded = record.read_text() if record.is_file() else ""
    if recorded == f"{key} done" and output.is_dir() and not always:
        print(f"[{title}] already finished: {line}", flush=True)
        return key
    if recorded and not recorded.startswith(key) and output.exists():
        print(f"[{title}] {output} was written from other inputs: it is removed and computed again", flush=True)
        shutil.rmtree(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_file(record, lambda file: file.write_text(f"{key} begun"))
    print(f"[{title}] {line}", flush=True)
    start = time.monotonic()
    status = _run([*command, *_resume_options(command, output)])
    if status:
        raise StageError(f"stage {title} failed with status {status}; run the same command again to resume from there")
    replace_file(record, lambda file: file.write_text(f"{key} done"))
    print(f"[{title}] done in {time.monotonic() - start:.0f} s", flush=True)
    return key


def _resume_options(command: list[str], output: Path) -> list[str]:
    """Return the options that resume an interrupted training; the other stages resume by themselves."""
    if command[0] != "fit":
        return []
    checkpoints = sorted(output.rglob("last.ckpt"), key=lambda file: file.stat().st_mtime)
    return ["--ckpt_path", str(checkpoints[-1])] if checkpoints else []


def _run(command: list[str]) -> int:
    """Run a framefold command and return its status; SIGTERM and Ctrl-C end it first, so that it can clean up."""
    # The matrices are small: a second thread gains a sixth on an idle machine and costs a factor of ten on a busy one.
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    child: subprocess.Popen[bytes] | None = None
    ending = False

    def end(*_: object) -> None:
        nonlocal ending
        ending = True
        if child is not None:
            child.terminate()

    before = signal.signal(signal.SIGTERM, end)  # before the child starts, so that no signal can end this process alone
    try:
        with subprocess.Popen([sys.executable, "-m", "framefold", *command], env=env) as child:
            if ending:
                child.terminate()
            try:
                return child.wait()
            except KeyboardInterrupt:  # the terminal has sent it to the child, too
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    child.terminate()
                raise
    finally:
        signal.signal(signal.SIGTERM, before)
