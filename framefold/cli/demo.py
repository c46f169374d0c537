"""``framefold demo``: the whole job in minutes, each stage with the command a user would type.

Shards -> training -> export -> ablation with the adapter loaded back, beside the shipped ones -> report. A stage that
has finished is not run again while its command, its configurations, the host and the stages before it are the same;
otherwise what it made is made anew. An interrupted stage goes on where it stopped.
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

SHIPPED = ("storm", "qtsplus", "fila")  # folders beside the host, and packaged configurations


class StageError(FramefoldError, RuntimeError):
    """A stage of the demo failed; its own message stands above."""


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
    """Write shards, train a compressor, export it, compare it with the others, and show the table.

    Trained compressors that are not trained here take part as they were shipped, in the folders beside the host.

    Args:
        out: folder of the run; what is finished there is reused.
        host: folder of the host.
        videos: synthetic training videos to write.
        frames: shortest and longest of them, 32 and 64 by default.
        train: configurations of the compressors to train, compressor/fila by default.
        retrain: train all shipped compressors anew (a quarter of an hour on one CPU core).
        ablation: configuration of the comparison.
        heldout_videos: of the comparison, as in its configuration by default.
        max_steps: shortens the training.

    Raises:
        StageError: there is no host, or a stage failed.
        ConfigNotFoundError: no such configuration.
    """
    if not (Path(host) / "config.json").is_file():
        raise StageError(f"no host in {host}: make one with 'framefold tinyhost train --out {host}'")
    recipes = train or [f"compressor/{name}" for name in (SHIPPED if retrain else ("fila",))]
    for recipe in recipes:
        find_config(recipe)
    total, model = 2 * len(recipes) + 2, host_digest(Path(host))
    shards = str(Path(out) / "shards")
    synth = ["shards", "synth", "--out", shards, "--videos", str(videos), "--seed", "0"]
    written = _stage(f"1/{total} shards", [*synth, "--frames", *map(str, frames or [32, 64])], Path(shards))
    keys, adapters = [], []
    for number, recipe in enumerate(recipes):
        run, adapter = (str(Path(out) / kind / Path(recipe).stem) for kind in ("fit", "adapters"))
        fit = ["fit", "--config", recipe, "--config", "data/shards", "--config", "trainer/cpu", "--model.host", host]
        fit += ["--data.shards", shards, "--trainer.default_root_dir", run]
        fit += [] if max_steps is None else ["--trainer.max_steps", str(max_steps)]
        key = _stage(f"{2 * number + 2}/{total} training", fit, Path(run), written + model)
        export = ["export", "--checkpoint", run, "--out", adapter]
        keys.append(_stage(f"{2 * number + 3}/{total} export", export, Path(adapter), key))
        adapters.append(adapter)
        print(f"loaded back: {load(adapter)}", flush=True)
    results = Path(out) / "ablation"
    compare = ["ablate", "--config", ablation, "--out", str(results), "--host", host]
    compare += ["--adapters", *adapters, *_shipped(Path(host).parent, adapters)]
    if heldout_videos is not None:
        compare += ["--videos", str(heldout_videos)]
    _stage(f"{total}/{total} ablation", compare, results, "".join(keys) + model, again=True)
    print(f"the report, to be opened in a browser: {(results / 'report.html').resolve()}", flush=True)


def _shipped(folder: Path, trained: list[str]) -> list[str]:
    """Adapters in a folder of which none was trained here."""
    names = {load(adapter).name for adapter in trained}
    found = [folder / name for name in SHIPPED if (folder / name / CONFIG).is_file()]
    return [str(adapter) for adapter in found if load(adapter).name not in names]


def _stage(title: str, command: list[str], made: Path, after: str = "", again: bool = False) -> str:
    """Run a framefold command, unless it has finished with the same inputs before.

    Args:
        made: the folder it writes; a file beside it notes with which inputs.
        after: key of what it reads. again: run it even so (the ablation keeps its own books and shows the table).

    Returns:
        The key of what it made.
    """
    line = f"framefold {shlex.join(command)}"
    configs = [file_digest(find_config(command[i + 1])) for i, word in enumerate(command) if word == "--config"]
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
