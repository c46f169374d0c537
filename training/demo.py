"""``framefold demo``: the whole job in minutes, each stage with the command a user would type.

Shards -> training -> export -> ablation with the adapter loaded back -> report. A stage whose command finished before
is not run again.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

from ..adapters import load
from ..adapters.errors import FramefoldError
from ..adapters.folder import replace_file


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
        frames: numbers of frames they may have, 32 and 64 by default.
        train: configuration of the compressor to train.
        ablation: configuration of the comparison.
        heldout_videos: of the comparison, as in its configuration by default.
        max_steps: shortens the training.

    Raises:
        StageError: a stage failed.
    """
    shards, run, adapter, results = (str(Path(out) / name) for name in ("shards", "fit", "adapter", "ablation"))
    synth = ["shards", "synth", "--out", shards, "--videos", str(videos), "--seed", "0"]
    fit = ["fit", "--config", train, "--config", "data/shards", "--config", "trainer/cpu", "--model.host", host]
    fit += ["--data.shards", shards, "--trainer.default_root_dir", run]
    compare = ["ablate", "--config", ablation, "--out", results, "--host", host, "--adapters", adapter]
    if max_steps is not None:
        fit += ["--trainer.max_steps", str(max_steps)]
    if heldout_videos is not None:
        compare += ["--videos", str(heldout_videos)]
    _stage("1/4 shards", [*synth, "--frames", *map(str, frames or [32, 64])], Path(out) / ".shards")
    _stage("2/4 training", fit, Path(out) / ".training")
    _stage("3/4 export", ["export", "--checkpoint", run, "--out", adapter], Path(out) / ".export")
    print(f"loaded back: {load(adapter)}", flush=True)
    _stage("4/4 ablation", compare)


def _stage(title: str, command: list[str], marker: Path | None = None) -> None:
    """Run a framefold command, unless its marker says that just this one has finished before."""
    line = f"framefold {shlex.join(command)}"
    if marker is not None and marker.is_file() and marker.read_text() == line:
        print(f"[{title}] already there: {line}", flush=True)
        return
    print(f"[{title}] {line}", flush=True)
    start = time.monotonic()
    status = subprocess.run([sys.executable, "-m", "framefold", *command]).returncode
    if status:
        raise StageError(f"stage {title} failed with status {status}; the same call goes on from there")
    if marker is not None:
        replace_file(marker, lambda beside: beside.write_text(line))
    print(f"[{title}] done in {time.monotonic() - start:.0f} s", flush=True)
