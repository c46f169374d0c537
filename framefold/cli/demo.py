"""``framefold demo``: the complete workflow within minutes; every stage prints the command that a user would type.

Shards -> training -> export -> ablation of the trained compressor, its start and training-free ones -> report, and a
sentence about what training brought. A finished stage is skipped as long as its command, its configurations, the host
and all previous stages are unchanged; otherwise its output is removed and computed again. An interrupted stage resumes
where it stopped.
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

import yaml

from framefold.adapters import load
from framefold.configs import find_config
from framefold.errors import FramefoldError
from framefold.evaluation.report.methods import counterpart_of, is_trainable
from framefold.evaluation.report.table import ResultTable
from framefold.evaluation.results.formats import percent
from framefold.evaluation.results.provenance import host_digest
from framefold.evaluation.results.result_files import read_results
from framefold.files import file_digest, replace_file
from framefold.training.frozen_host.locate import find_host

TRAINABLE = ("storm", "qtsplus", "fila")  # names of packaged configurations


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
    """Write shards, train a compressor, export it, compare it with others, and say what training brought.

    The videos are hard: the camera moves, and of many similar events a question asks for one or two.

    Args:
        out: folder of the run; finished stages in it are reused.
        host: folder of the host.
        videos: number of synthetic training videos to write.
        frames: shortest and longest video in frames; 32 and 64 by default.
        train: configurations of the compressors to train; compressor/fila by default.
        retrain: train all compressors that have a packaged configuration (a quarter of an hour on one CPU core).
        ablation: configuration of the ablation.
        heldout_videos: number of videos of the ablation; by default as in its configuration.
        max_steps: upper limit of training steps.

    Raises:
        HostError: there is no host.
        StageError: a stage failed.
        ConfigNotFoundError: a configuration does not exist.
    """
    found = find_host(host)
    recipes = train or [f"compressor/{name}" for name in (TRAINABLE if retrain else ("fila",))]
    for config in (*recipes, ablation):
        find_config(config)
    total, host_key = 2 * len(recipes) + 2, host_digest(found.folder)
    shards = str(Path(out) / "shards")
    synth = ["shards", "synth", "--out", shards, "--videos", str(videos), "--seed", "0", "--difficulty", "hard"]
    shards_key = _stage(f"1/{total} shards", [*synth, "--frames", *map(str, frames or [32, 64])], Path(shards))
    keys, adapters = [], []
    for number, recipe in enumerate(recipes):
        run, adapter = (str(Path(out) / kind / Path(recipe).stem) for kind in ("fit", "adapters"))
        fit = ["fit", "--config", recipe, "--config", "data/shards", "--config", "trainer/cpu", "--model.host", host]
        fit += ["--data.shards", shards, "--data.difficulty", "hard", "--trainer.default_root_dir", run]
        fit += [] if max_steps is None else ["--trainer.max_steps", str(max_steps)]
        key = _stage(f"{2 * number + 2}/{total} training", fit, Path(run), shards_key + host_key)
        export = ["export", "--checkpoint", run, "--out", adapter]
        keys.append(_stage(f"{2 * number + 3}/{total} export", export, Path(adapter), key))
        adapters.append(adapter)
        print(f"loaded back: {load(adapter)}", flush=True)
    results = Path(out) / "ablation"
    compare = ["ablate", "--config", ablation, "--out", str(results), "--host", host, "--adapters", *adapters]
    compare += _compared(adapters, ablation)
    if heldout_videos is not None:
        compare += ["--videos", str(heldout_videos)]
    _stage(f"{total}/{total} ablation", compare, results, "".join(keys) + host_key, always=True)
    print(f"\n{verdict(results)}\n\n{_next_steps(results, adapters[-1], host)}", flush=True)


def _compared(trained: list[str], ablation: str) -> list[str]:
    """Return the option with the compressors of a configuration and those from which the training started."""
    names = yaml.safe_load(find_config(ablation).read_text()).get("compressors")
    starts = [load(adapter).counterpart for adapter in trained]
    return [] if names is None else ["--compressors", *dict.fromkeys([*names, *filter(None, starts)])]


def verdict(results: Path) -> str:
    """Return a sentence for each trained compressor: what training brought, in points with 95 % intervals.

    Args:
        results: folder of results of an ablation.
    """
    table = ResultTable(read_results(results))
    lines = []
    for method in [method for method in table.methods if table.kind(method) == "trained"]:
        start = counterpart_of(method, table.by_method[method])
        free = table.best(table.budgets[-1], lambda other: not is_trainable(other))
        for other, role in ((start, "from which it started"), (free, "the best training-free row")):
            gains = [(budget, table.difference(method, other, budget)) for budget in table.budgets[::-1] if other]
            texts = [f"{percent(gain, sign=True)} at {budget}" for budget, gain in gains if gain is not None]
            if texts:
                lines.append(f"{method} - {other} ({role}): {', '.join(texts)}")
    head = "what training brought, in points of accuracy with 95 % intervals:"
    return "\n  ".join([head, *dict.fromkeys(lines)])


def _next_steps(results: Path, adapter: str, host: str) -> str:
    """Return the page's path and what to type next."""
    return (
        f"page: {(results / 'report.html').resolve()}\n"
        f"next: framefold show --video YOUR_CLIP.mp4 --compressor {adapter} --budget 0.1 --out kept.png --host {host}\n"
        f"      framefold help {load(adapter).name}"
    )


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
