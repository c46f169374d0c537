"""Progress of an ablation that several processes share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from framefold.evaluation.ablation.methods import Method
from framefold.evaluation.ablation.runner import AblationRunner, Trial
from framefold.evaluation.results.result_files import FOLDER
from framefold.evaluation.results.settings import Settings


def test_progress_counts_results_of_other_processes(tmp_path: Path) -> None:
    base = Settings("", {}, None, 1.0, 0, "host", "digest", "float32", {}, [])
    method = Method("uniform", {})
    trials = [Trial(method, settings) for settings in method.result_settings([0.1, 0.2, 0.3], [0], base)]
    stale, missing, _ = ((tmp_path / FOLDER / trial.settings.file) for trial in trials)
    stale.parent.mkdir()
    stale.write_text("{}")  # of other settings, to be replaced
    nothing: Any = None
    runner = AblationRunner(tmp_path, nothing, tmp_path, nothing, trials, batch_size=1, kept_videos=0)
    assert runner._count_written() == 0
    missing.write_text("{}")
    assert runner._count_written() == 1
    stale.unlink()
    stale.write_text("{ }")
    assert runner._count_written() == 2
