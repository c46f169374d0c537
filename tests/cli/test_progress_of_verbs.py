"""Every long verb writes lines with the remaining time where its output goes to a file."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from framefold import progress
from framefold.__main__ import main
from framefold.data.synthetic.generate import generate as synthesize
from framefold.data.video.codec import encode_video
from tests.support.paths import TINYHOST
from tests.support.processes import needs_torchvision

SMALL = "--videos 2 --frames 16"
VERBS = {
    "shards synth": "shards synth --out new --videos 4 --frames 64 64",
    "shards index": "shards index --shards shards",
    "shards check": "shards check --shards shards",
    "shards features": "shards features --shards shards --host {host} --out features",
    "bench synth": "bench synth --videos 2",
    "bench shortcuts": f"bench shortcuts --host pixels --compressors evs {SMALL}",
    "bench teacher": f"bench teacher --host {{host}} {SMALL}",
    "bench compress": "bench compress --compressors pool --frames 16 --width 64 --repeats 3",
    "bench attach": "bench attach --frames 2 --side 2 --repeats 3",
    "tinyhost eval": f"tinyhost eval --host {{host}} {SMALL}",
    "ablate": f"ablate --out ablation --host {{host}} --compressors uniform pool --budgets 0.5 {SMALL}",
    "answer": "answer --host {tinyhost} --video a.mp4 --question what --compressor pool --frames 8 --repeats 2",
}


@needs_torchvision
def test_every_long_verb_writes_lines_with_the_remaining_time(
    tmp_path: Path, random_host: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    update, lines = progress.LineProgress.update, list[str]()

    def recorded(self: progress.LineProgress, steps: float = 1) -> None:
        update(self, steps)
        lines.append(progress._writer._line())  # what the thread would write now

    monkeypatch.setattr(progress.LineProgress, "update", recorded)
    monkeypatch.setattr(sys, "argv", ["framefold"])
    monkeypatch.setattr("framefold.evaluation.report.report._plot", lambda table, out: [])
    video = synthesize(0, split="test", frames=16)
    (tmp_path / "a.mp4").write_bytes(encode_video(video.frames, video.times))
    assert (
        main(["shards", "synth", "--out", "shards", "--videos", "12", "--frames", "16", "16", "--shard_size", "4"]) == 0
    )
    silent = {}
    for verb, line in VERBS.items():
        capfd.readouterr(), lines.clear()
        status = main(line.format(host=random_host, tinyhost=TINYHOST).split())
        err = capfd.readouterr().err
        assert status == 0, (verb, err)
        told = [one for one in lines if re.search(r": \d+/\d+, .* s a \w+, \d+:\d\d:\d\d left", one)]
        if not told or "\r" in err:
            silent[verb] = lines[:3], err[-300:]
    assert not silent
